#!/bin/sh
# Debian's stress-ng, carried into a guest with its libraries.
here=/opt/stress-ng
exec $here/ld-linux-x86-64.so.2 --library-path $here/lib $here/stress-ng "$@"
