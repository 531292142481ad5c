# The trainer: the daemon's image with torch, transformers and peft. For the control role, which trains in a child process,
# for `semievold train` on its own, and for fetching models.
#
#   docker build -f deploy/trainer.Dockerfile -t semievol-trainer:0.1.0 .
#
# TORCH_BACKEND=cpu takes a torch without CUDA (0.2 GB instead of 5 GB). Empty: PyPI's, which is a CUDA build; its libraries
# are in the wheels, so the host needs the driver alone. EXTRAS and the locks, and how to pin the bases by digest: see
# deploy/Dockerfile. The torch of another TORCH_BACKEND comes from download.pytorch.org, with a hash that no lock here has: its
# version is pinned, its content is trusted; everything else is checked as without it.

FROM python:3.12.13-slim-bookworm AS build
ARG EXTRAS=gcs,kafka,kubernetes,postgres,qdrant,s3,tracing,train
ARG TORCH_BACKEND=
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /src
COPY deploy/images-build.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --requirement images-build.lock \
    && uv venv --quiet /opt/semievol
COPY pyproject.toml deploy/images.lock deploy/images-torch.lock ./
RUN if [ -n "$TORCH_BACKEND" ]; then torch="--verify-hashes --torch-backend $TORCH_BACKEND"; \
    else torch="--require-hashes --constraint images-torch.lock"; fi; \
    uv pip install --quiet --python /opt/semievol/bin/python $torch --constraint images.lock \
    $(printf -- ' --extra %s' $(echo "$EXTRAS" | tr ',' ' ')) --requirement pyproject.toml
COPY LICENSE README.md ./
COPY semievol semievol
COPY daemon daemon
RUN uv pip install --quiet --python /opt/semievol/bin/python --no-deps --build-constraint images-build.lock .

FROM python:3.12.13-slim-bookworm
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="semievol-trainer" \
      org.opencontainers.image.description="Trains LoRA adapters for semievol, and runs the control role." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
RUN groupadd --gid 10001 semievol \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin semievol \
    && install -d -o semievol -g semievol /data /data/adapters /models
COPY --from=build /opt/semievol /opt/semievol
# Compiled kernels and the hub's files go where the user may write; the hub is asked by nobody unless a command says so.
ENV PATH=/opt/semievol/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor \
    TRITON_CACHE_DIR=/tmp/triton \
    SEMIEVOL_CONFIG=/etc/semievol/semievol.yaml \
    SEMIEVOL__ARTIFACTS__DIRECTORY=/data
USER 10001:10001
WORKDIR /data
EXPOSE 8320 8321
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8321/healthz', timeout=4)"]
ENTRYPOINT ["semievold"]
CMD ["control"]
