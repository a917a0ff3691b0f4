#!/bin/sh
# Mounts the attached device.
if [ -s /tmp/bugler.device ] && ! ismounted "$NEWROOT"; then
    type=$(getarg bugler.root-type=)
    flags=$(getarg bugler.root-flags=)
    getargbool 0 rw && access=rw || access=ro
    mount -t "${type:-auto}" -o "$access${flags:+,$flags}" "$(cat /tmp/bugler.device)" "$NEWROOT"
fi
