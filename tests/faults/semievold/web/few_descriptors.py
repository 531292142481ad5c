"""`semievold` with 256 file descriptors, and no way to get more."""

from __future__ import annotations

import resource

from semievold.commands.cli import main

resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
main()
