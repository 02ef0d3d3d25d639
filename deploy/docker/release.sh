#!/usr/bin/env bash
# Builds the images that are shipped: from base images that are named by their digests, so that the same source makes the same image
# whatever a tag leads to by then. The digests stand in the first lines of the Dockerfile, and nowhere else.
#
#   release.sh pin                       asks the registries what the tags there lead to now, and writes their digests there
#   release.sh build TARGET TAG [ARG…]   builds a target; ARGs go to `docker build`
#   release.sh check                     whether each of these images has a digest
#
# Exit code: 0 done, 1 failed, 2 wrong usage.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dockerfile=${EMBED_DOCKERFILE:-$here/Dockerfile}

die() { echo "release: $1" >&2 && exit "${2:-1}"; }

# images: the build arguments that name an image: NAME=IMAGE:TAG@DIGEST. One that names another argument is that image.
images() { sed -n 's/^ARG \([A-Z_]*\(_IMAGE\|_BASE\)\)=\([^$]*\)$/\1=\3/p' "$dockerfile"; }

is_digest() { [[ $1 =~ @sha256:[0-9a-f]{64}$ ]]; }

pin() {
    local written name image tag digest
    written=$(mktemp "$dockerfile.XXXXXX")
    # shellcheck disable=SC2064  # this file, whatever the variable holds then
    trap "rm -f '$written'" EXIT
    cp "$dockerfile" "$written"
    while IFS='=' read -r name image; do
        tag=${image%@*}
        digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$tag") ||
            die "$tag: its registry does not say what it is; run this where it can be reached"
        is_digest "$tag@$digest" || die "$tag: $digest is no digest"
        sed -i "s|^ARG $name=.*|ARG $name=$tag@$digest|" "$written"
    done < <(images)
    chmod 0644 "$written" && mv "$written" "$dockerfile"
    echo "release: $dockerfile has the digests of today; look at the difference, and commit it"
}

check() {
    local name image
    while IFS='=' read -r name image; do
        is_digest "$image" || die "$name: $image has no digest; run \`release.sh pin\` where the registries can be reached"
    done < <(images)
}

build() {
    [[ $# -ge 2 ]] || die "build needs a target and a tag" 2
    local target=$1 tag=$2 argument name before=
    shift 2
    check
    # What is given may be an image as well, or a wheel.
    for argument in "$@"; do
        # A named context takes the place of a stage or an image of that name.
        if [[ $before == --build-context || $argument == --build-context=* ]] && ! is_digest "$argument"; then
            die "$argument: a build context has to be an image by its digest (NAME=docker-image://IMAGE@DIGEST)"
        fi
        before=$argument
        name=${argument#--build-arg=} && name=${name%%=*}
        if [[ $name == *_IMAGE || $name == *_BASE ]] && ! is_digest "$argument"; then
            die "$argument: give it by its digest"
        fi
    done
    docker build -f "$dockerfile" --target "$target" -t "$tag" "$@" "$here/../.."
}

case ${1:-} in
pin | check) [[ $# -eq 1 ]] || die "$1 takes no arguments" 2 && "$1" ;;
build) shift && build "$@" ;;
*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
