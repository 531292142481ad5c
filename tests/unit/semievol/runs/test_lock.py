from pathlib import Path

import pytest

from semievol.errors import ConfigError
from semievol.runs.directory import RunDirectory


def test_one_run_at_a_time_writes_into_a_directory(tmp_path: Path) -> None:
    with RunDirectory(tmp_path / "out").locked():
        with pytest.raises(ConfigError, match="another run writes there"), RunDirectory(tmp_path / "out").locked():
            pass
        with RunDirectory(tmp_path / "other").locked():
            pass
    with RunDirectory(tmp_path / "out").locked():
        pass
