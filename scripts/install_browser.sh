#!/usr/bin/env bash
# Installs what browser tests and screenshots need: Chromium, its driver, and a font with Chinese characters.
set -euo pipefail

packages=(chromium chromium-driver fonts-noto-cjk)
missing=()
for package in "${packages[@]}"; do
    dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' ||
        missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "Browser tests need Chromium, chromedriver and a Noto CJK font; install them with your system's packages." >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif command -v sudo >/dev/null && sudo --non-interactive true 2>/dev/null; then
    as_root=(sudo)
else
    echo "Browser tests need: ${missing[*]}. Ask an administrator to run:  apt-get install ${missing[*]}" >&2
    exit 1
fi

mkdir -p var/log
log=var/log/install-browser.log
echo "Installing ${missing[*]} ..."
if ! { "${as_root[@]}" apt-get update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"; } \
    >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    echo "The system packages could not be installed; the whole output is in $log." >&2
    exit 1
fi
