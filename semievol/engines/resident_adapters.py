"""LoRA adapters resident in one model in memory, switched by name.

Owns the translation of adapter directories into PEFT modules and back out. Owns no threads: the caller serialises
every call. Invariant: a failed load leaves the model answering exactly as before; PEFT itself would leave a
half-loaded adapter behind, so files are checked against the model before their weights go in, and removed on failure.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from semievol import adapter_directory
from semievol.errors import AdapterError

logger = logging.getLogger(__name__)


class ResidentAdapters:
    """The adapters of one base model. Slots carry the names because PEFT's modules allow no dots in theirs."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._peft: Any = None  # None until the first load: without adapters the plain model runs
        self._slots: dict[str, str] = {}
        self._hashes: dict[str, str] = {}
        self._loads = 0
        self._active: str | None = None

    def names(self) -> frozenset[str]:
        return frozenset(self._slots)

    def load(self, name: str, path: Path) -> None:
        """Make the directory answerable as `name`; the same content again is a no-op.

        Raises:
            AdapterError: see `adapter_directory.verify_weights`, or the weights do not fit the model.
        """
        adapter_directory.check_name(name)
        manifest = adapter_directory.verify_weights(path)
        if name in self._slots:
            if self._hashes[name] != manifest.content_hash:
                raise AdapterError(f"{path}: {name} is loaded with other content ({self._hashes[name][:12]})")
            return
        slot = f"slot{self._loads}"
        self._loads += 1
        try:
            config, weights = _read(path)
            self._inject(slot, config, weights)
        except AdapterError as error:
            self._discard(slot)
            raise AdapterError(f"{path}: {error}") from error
        except Exception as error:  # PEFT, torch and safetensors raise many types for an unusable adapter
            self._discard(slot)
            raise AdapterError(f"{path}: does not fit the model ({_first_line(error)})") from error
        self._slots[name], self._hashes[name] = slot, manifest.content_hash
        logger.info("adapter %s is resident", name)

    def unload(self, name: str) -> None:
        """Forget `name`; unknown names are a no-op."""
        slot = self._slots.pop(name, None)
        if slot is not None:
            del self._hashes[name]
            self._discard(slot)

    def activate(self, name: str | None) -> None:
        """Let the model answer as `name`, or as the base for None.

        Raises:
            AdapterError: `name` is not loaded.
        """
        if name is not None and name not in self._slots:
            raise AdapterError(f"adapter {name} is not loaded")
        if self._peft is None or name == self._active:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(self._slots[name], inference_mode=True)
        self._active = name

    def _inject(self, slot: str, config: Any, weights: dict[str, torch.Tensor]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of every second adapter on a model
            if self._peft is None:
                self._peft = PeftModel(self._model, config, adapter_name=slot, autocast_adapter_dtype=False)
            else:
                self._peft.add_adapter(slot, config, autocast_adapter_dtype=False)
            expected = get_peft_model_state_dict(self._peft, adapter_name=slot)
            _check_fit(expected, weights)
            set_peft_model_state_dict(self._peft, weights, adapter_name=slot)
        for parameter_name, parameter in self._peft.named_parameters():
            if f".{slot}." in parameter_name:
                parameter.requires_grad_(False)
                parameter.data = parameter.data.to(self._model.dtype)
        self._peft.eval()
        self._rest()

    def _discard(self, slot: str) -> None:
        if self._peft is None:
            return
        if slot in self._peft.peft_config:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PEFT warns that another one becomes active, which none is to be
                self._peft.delete_adapter(slot)
        self._rest()

    def _rest(self) -> None:
        """Disable every adapter: loading and deleting move PEFT's active adapter at will."""
        self._peft.base_model.disable_adapter_layers()
        self._active = None


def _read(path: Path) -> tuple[Any, dict[str, torch.Tensor]]:
    config = PeftConfig.from_pretrained(str(path))
    if not isinstance(config, LoraConfig):
        raise AdapterError(f"{adapter_directory.CONFIG_FILE} is not a LoRA configuration")
    config.inference_mode = True
    weights = load_file(path / adapter_directory.WEIGHTS_FILE)
    if not weights:
        raise AdapterError(f"{adapter_directory.WEIGHTS_FILE} is empty")
    for key, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{key} has values that are not finite")
    return config, weights


def _check_fit(expected: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> None:
    """PEFT would keep random or zero weights for what a file lacks; here every tensor must be there and fit."""
    for key in sorted(expected.keys() | weights.keys()):
        if key not in weights:
            raise AdapterError(f"{adapter_directory.WEIGHTS_FILE} lacks {key}")
        if key not in expected:
            raise AdapterError(f"{adapter_directory.WEIGHTS_FILE} has {key}, which the model has not")
        if expected[key].shape != weights[key].shape:
            shapes = f"{tuple(weights[key].shape)}, the model needs {tuple(expected[key].shape)}"
            raise AdapterError(f"{key} has shape {shapes}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
