#!/usr/bin/env bash
# `make planted`: see README.md beside it.
exec python3 "$(dirname "${BASH_SOURCE[0]}")/run.py"
