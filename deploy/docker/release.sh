#!/usr/bin/env bash
# Builds the images that are shipped: from base images that are named by their digests, so that the same source makes the same image
# whatever a tag leads to by then. The digests stand in the first lines of the Dockerfile, and nowhere else.
#
#   release.sh pin                       asks the registries what the tags there lead to now, and writes their digests there
#   release.sh build TARGET TAG [ARG…]   builds a target; ARGs go to `docker build`; then writes build/sbom/TARGET.cdx.json, if syft is there
#   release.sh sbom FILE                 writes what the programs are made of, as CycloneDX (`make sbom`)
#   release.sh check                     whether each of these images has a digest
#
# Exit code: 0 done, 1 failed, 2 wrong usage.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
dockerfile=${EMBED_DOCKERFILE:-$here/Dockerfile}

die() { echo "release: $1" >&2 && exit "${2:-1}"; }

# images: the build arguments that name an image: NAME=IMAGE:TAG@DIGEST. One that names another argument is that image.
images() { sed -n 's/^ARG \([A-Z_]*\(_IMAGE\|_BASE\)\)=\([^$]*\)$/\1=\3/p' "$dockerfile"; }

# Of build/deploy-venv, which `make deploy-tools` fills.
syft=${EMBED_SYFT:-$here/../../build/deploy-venv/bin/syft}

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
    if [[ -x $syft ]]; then
        sbom "$here/../../build/sbom/$target.cdx.json"
    else
        echo "release: no bill of materials was written: run \`make sbom\`" >&2
    fi
}

# All crates that the lock file names, with the files' checksums: the programs are built with --locked from it.
sbom() {
    local version
    version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$here/../../Cargo.toml" | head -n 1)
    mkdir -p "$(dirname "$1")"
    "$syft" scan "file:$here/../../Cargo.lock" -q --source-name akidb-embed --source-version "$version" -o "cyclonedx-json=$1"
    echo "release: $1"
}

case ${1:-} in
pin | check) [[ $# -eq 1 ]] || die "$1 takes no arguments" 2 && "$1" ;;
build) shift && build "$@" ;;
sbom) [[ $# -eq 2 ]] || die "sbom takes a file" 2 && sbom "$2" ;;
*) sed -n '2,10s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
