"""The TLS context of a connection to Kafka, from the files that the settings name."""

from __future__ import annotations

import ssl

from semievol.errors import ConfigError
from semievold.config.streams import KafkaSettings


def tls_context(settings: KafkaSettings) -> ssl.SSLContext:
    """The context.

    Raises:
        ConfigError: a file is missing, or is no PEM file; the error names its key.
    """
    key = "tls_ca"
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca)
        context.check_hostname = settings.tls_check_hostname
        if settings.tls_certificate is not None:
            key = "tls_certificate"
            context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"stream.kafka.{key}: cannot be used ({error}); give a readable PEM file") from error
    return context
