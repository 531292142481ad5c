"""What errors of kafka-python become."""

from __future__ import annotations

import pytest
from kafka import errors

from semievol.errors import ConfigError
from semievold.config.streams import KafkaSettings
from semievold.streams.kafka.client.connection import translate


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (errors.TransactionalIdAuthorizationFailedError("no"), r"exactly_once: .* grant WRITE and DESCRIBE on"),
        (errors.TopicAuthorizationFailedError("no"), "has no permission at .* grant it the missing right"),
        (errors.AuthorizationError("no"), "has no permission at .* grant it the missing right"),
    ],
)
def test_a_missing_permission_is_named_with_the_right_that_is_missing(error: Exception, says: str) -> None:
    translated = translate(error, KafkaSettings())
    assert isinstance(translated, ConfigError)
    with pytest.raises(ConfigError, match=says):
        raise translated
