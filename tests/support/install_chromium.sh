#!/bin/sh
# The browser tests drive a Chromium of the system.
set -eu

for program in chromium chromium-browser google-chrome; do
  if command -v "$program" >/dev/null 2>&1; then exit 0; fi
done

if command -v apt-get >/dev/null 2>&1; then
  sudo=
  if [ "$(id -u)" != 0 ]; then sudo="sudo -n"; fi
  if [ -z "$sudo" ] || $sudo true 2>/dev/null; then
    echo "Installing Chromium for the browser tests ..."
    $sudo apt-get update -qq && $sudo apt-get install -y -qq chromium >/dev/null && exit 0
  fi
  remedy="sudo apt-get install chromium"
elif [ "$(uname)" = Darwin ]; then
  remedy="brew install --cask chromium"
else
  remedy="install the package chromium of your system"
fi
echo "The browser tests need Chromium, which is not on PATH. To install it: $remedy" >&2
exit 1
