#!/bin/sh
# Installs the programs that tests start, where it can: as root on Debian or Ubuntu, only what is missing.
# Never fails: a test whose program is not there is skipped and says so.

PACKAGES="strace mosquitto ffmpeg stress-ng postgresql python3-gi gir1.2-gstreamer-1.0 gir1.2-gst-plugins-base-1.0
gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good
gstreamer1.0-tools libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev gcc libc6-dev clang cmake pkg-config valgrind
gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user
gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm libsodium-dev libclang-rt-14-dev buildah chromium
openssh-server openssh-client"

absent() {
    for package in $PACKAGES; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || printf '%s ' "$package"
    done
}

add() {
    apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=60 "$@" >/dev/null 2>&1
}

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "no apt-get here: tests that need a program this machine lacks will be skipped"
    exit 0
fi
missing=$(absent)
if [ -n "$missing" ] && [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null 2>&1
    add $missing || for one in $missing; do add "$one"; done  # a name that is unknown stops none of the others
    missing=$(absent)
fi
[ -z "$missing" ] || echo "not installed: ${missing% }; tests that need them will be skipped"
exit 0
