#!/usr/bin/env bash
# Builds the images that are shipped: from base images that are named by their digests, so that the same source makes the same image
# whatever a tag leads to by then.
#
#   release.sh pin                       asks the registries what the tags in the Dockerfile's first lines lead to, and writes images.lock
#   release.sh build TARGET TAG [ARG…]   builds a target as images.lock says; ARGs go to `docker build`
#   release.sh check                     whether images.lock holds a digest of each of these images
#
# Exit code: 0 done, 1 failed, 2 wrong usage.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dockerfile=${EMBED_DOCKERFILE:-$here/Dockerfile}
lock=${EMBED_IMAGES_LOCK:-$here/images.lock}

die() { echo "release: $1" >&2 && exit "${2:-1}"; }

# images: the build arguments that name an image, with its tag: NAME=IMAGE:TAG. One that names another argument is that image.
images() { sed -n 's/^ARG \([A-Z_]*\(_IMAGE\|_BASE\)\)=\([^$]*\)$/\1=\3/p' "$dockerfile"; }

is_digest() { [[ $1 =~ @sha256:[0-9a-f]{64}$ ]]; }

pin() {
    local written image digest
    written=$(mktemp "$lock.XXXXXX")
    # shellcheck disable=SC2064  # this file, whatever the variable holds then
    trap "rm -f '$written'" EXIT
    while IFS='=' read -r name image; do
        digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image") ||
            die "$image: its registry does not say what it is; run this where it can be reached"
        is_digest "$image@$digest" || die "$image: $digest is no digest"
        echo "$name=$image@$digest"
    done < <(images) >"$written"
    chmod 0644 "$written" && mv "$written" "$lock"
    echo "release: $lock is written; look at the difference, and commit it"
}

check() {
    local name image pinned
    [[ -f $lock ]] || die "there is no $lock: run \`release.sh pin\` where the registries can be reached, and commit it"
    while IFS='=' read -r name image; do
        pinned=$(sed -n "s/^$name=//p" "$lock")
        [[ -n $pinned ]] || die "$name: $lock does not name it; run \`release.sh pin\`"
        is_digest "$pinned" || die "$name: $pinned has no digest; run \`release.sh pin\`"
        [[ ${pinned%@*} == "$image" ]] || die "$name: $lock has $pinned, the Dockerfile $image; run \`release.sh pin\`"
    done < <(images)
}

build() {
    [[ $# -ge 2 ]] || die "build needs a target and a tag" 2
    local target=$1 tag=$2 name image arguments=()
    shift 2
    check
    while IFS='=' read -r name image; do
        arguments+=(--build-arg "$name=$image")
    done < <(grep -E '^[A-Z_]+=' "$lock")
    # What is given beside them may be an image as well, or a wheel.
    for argument in "$@"; do
        name=${argument#--build-arg=} && name=${name%%=*}
        if [[ $name == *_IMAGE || $name == *_BASE ]] && ! is_digest "$argument"; then
            die "$argument: give it by its digest"
        fi
    done
    # A syntax that the Dockerfile names would be fetched by its tag: the builder's own is used.
    local copy
    copy=$(mktemp -d)
    # shellcheck disable=SC2064  # this folder, whatever the variable holds then
    trap "rm -rf '$copy'" EXIT
    grep -v '^# syntax=' "$dockerfile" >"$copy/Dockerfile"
    cp "$here/Dockerfile.dockerignore" "$copy/"
    docker build -f "$copy/Dockerfile" --target "$target" -t "$tag" "${arguments[@]}" "$@" "$here/../.."
}

case ${1:-} in
pin | check) [[ $# -eq 1 ]] || die "$1 takes no arguments" 2 && "$1" ;;
build) shift && build "$@" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
