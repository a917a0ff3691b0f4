#!/bin/sh
# Tells dracut that there will be a root.
if [ -n "$(getarg bugler.root=)" ]; then
    root=bugler
    rootok=1
    # Waits until the device is attached.
    echo '[ -e /tmp/bugler.device ]' >"$hookdir/initqueue/finished/bugler.sh"
fi
