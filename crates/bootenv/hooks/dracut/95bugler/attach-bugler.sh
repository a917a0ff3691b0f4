#!/bin/sh
# Attaches the device; called again until it is there.
if [ -n "$(getarg bugler.root=)" ] && [ ! -e /tmp/bugler.device ]; then
    if device=$(bugler-agent attach); then
        echo "$device" >/tmp/bugler.device
    fi
fi
