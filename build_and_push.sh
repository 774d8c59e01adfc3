#!/usr/bin/env bash
# Builds the image of one program, pushes it and prints its URI as the last line of stdout.
# All else goes to stderr, so that uri=$(./build_and_push.sh my-models) works.
# Keeps to bash 3.2, which is what macOS has.
set -euo pipefail
LC_ALL=C # [a-z] means these 26 letters, whatever the locale

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

image='' program=model_logic.py tag=latest region='' base_image='' registry=''
write_config=false dry_run=false

print_help() {
    cat <<'EOF'
Usage: ./build_and_push.sh [options] IMAGE

Builds IMAGE for linux/amd64, pushes it, and prints its URI as the last line.

  --program P      the program of code/ that the image runs (default: model_logic.py)
  --tag T          the image's tag (default: latest)
  --region R       AWS region (default: AWS_REGION, AWS_DEFAULT_REGION, then `aws configure`)
  --base-image I   image to build on (default: AWS's scikit-learn image in that region)
  --registry HOST  push to HOST[:PORT][/path], where you are logged in, instead of your ECR
  --write-config   after the push, put the URI into config.json as image_uri
  --dry-run        print the commands, as Docker with buildx would run them, and change nothing
  -h, --help       print this
EOF
}

fail() { # SENTENCE [EXIT_CODE]
    printf 'build_and_push.sh: %s\n' "$1" >&2
    exit "${2-1}"
}

reject() { # SENTENCE: for mistakes on the command line
    fail "$1 See ./build_and_push.sh --help." 2
}

take_value() { # OPTION [VALUE …]
    [[ ${2-} == [!-]* ]] || reject "Option $1 needs a value."
    printf '%s' "$2"
}

parse_arguments() {
    while [[ $# -gt 0 ]]; do
        case $1 in
            --program) program=$(take_value "$@"); shift ;;
            --tag) tag=$(take_value "$@"); shift ;;
            --region) region=$(take_value "$@"); shift ;;
            --base-image) base_image=$(take_value "$@"); shift ;;
            --registry) registry=$(take_value "$@"); shift ;;
            --write-config) write_config=true ;;
            --dry-run) dry_run=true ;;
            -h | --help) print_help; exit ;;
            -*) reject "There is no option $1." ;;
            *) [[ -z $image ]] || reject "Only one IMAGE can be built, got $image and $1."; image=$1 ;;
        esac
        shift
    done
}

check_arguments() {
    local word='[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*' programs=("$root"/code/*.py)
    local valid_image="^$word(/$word)*\$" valid_tag='^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$'
    [[ -n $image ]] || reject "The name of the IMAGE is missing."
    [[ $image =~ $valid_image && ${#image} -ge 2 && ${#image} -le 256 ]] ||
        reject "'$image' is not a valid IMAGE: use lower-case letters and digits, joined by . _ - or /; a tag goes to --tag."
    [[ $tag =~ $valid_tag ]] ||
        reject "'$tag' is not a valid tag: use up to 128 letters, digits and _ . - and do not start with . or -."
    [[ $registry != *://* ]] || reject "Give the registry $registry without ${registry%%://*}://."
    registry=${registry%/}
    [[ $program != */* && -f $root/code/$program ]] ||
        reject "There is no program '$program' in code/; choose one of: ${programs[*]##*/}."
}

check_docker() {
    command -v docker >/dev/null ||
        fail "Docker is not installed; install Docker Desktop or Docker Engine first."
    docker version >/dev/null 2>"$scratch/docker" ||
        fail "Docker's engine does not answer; start it, or get the right to use it: $(tail -n 1 "$scratch/docker")"
}

check_aws() {
    command -v aws >/dev/null ||
        fail "The AWS CLI is not installed; install it, or do without AWS by --registry and --base-image."
}

find_region() {
    region=${region:-${AWS_REGION:-${AWS_DEFAULT_REGION-}}}
    [[ -z $region ]] || return 0
    check_aws
    region=$(aws configure get region 2>/dev/null) ||
        fail "No AWS region is set; give --region, or set one with 'aws configure'."
}

read_base_images() { # prints the region's DNS suffix, AWS's image there or -, and all regions
    python3 - "$root/container/base_images.json" "$region" <<'EOF'
import json, sys

path, region = sys.argv[1:]
table = json.load(open(path))
accounts = table["accounts"]
suffix = next(s for start, s in table["dns_suffixes"].items() if region.startswith(start))
image = "{}.dkr.ecr.{}.{}/{repository}:{tag}".format(accounts.get(region), region, suffix, **table)
print(suffix, image if region in accounts else "-", *accounts)
EOF
}

fail_if_denied() { # FILE with the words of aws or docker
    local denied='not authorized to perform: ([a-z0-9]+:[A-Za-z]+)'
    [[ ! $(<"$1") =~ $denied ]] ||
        fail "AWS denied you ${BASH_REMATCH[1]}; ask for the permissions in deploy/iam/build-and-push.json."
}

explain_aws() {
    fail_if_denied "$scratch/aws"
    case $(<"$scratch/aws") in
        *[Ee]xpired*)
            fail "Your AWS credentials have expired; sign in again, for instance with 'aws sso login'." ;;
        *credentials* | *"config profile"* | *InvalidClientTokenId* | *UnrecognizedClient* | *Signature*)
            fail "AWS has no valid credentials of yours; run 'aws configure', or name a profile in AWS_PROFILE." ;;
        *) fail "The AWS CLI failed in region $region:$(tr '\n' ' ' <"$scratch/aws")" ;;
    esac
}

ask_aws() {
    check_aws
    aws "$@" 2>"$scratch/aws" || explain_aws
}

quote() {
    local line
    line=$(printf '%q ' "$@")
    printf '%s\n' "${line% }"
}

run() { # shows docker's progress and keeps it, to explain a failure with
    if $dry_run; then quote "$@"; else "$@" 2>&1 | tee "$scratch/docker" >&2; fi
}

log_in() { # ECR_HOST, in its own region; the password goes through a pipe, and nowhere else
    local region=${1#*.dkr.ecr.}
    region=${region%%.*}
    local ask=(ecr get-login-password --region "$region")
    local login=(docker login --username AWS --password-stdin "$1")
    if $dry_run; then
        echo "$(quote aws "${ask[@]}") | $(quote "${login[@]}")"
        return
    fi
    ask_aws "${ask[@]}" | "${login[@]}" >"$scratch/docker" 2>&1 || {
        [[ ${PIPESTATUS[0]} -eq 0 ]] || exit 1 # ask_aws has said why
        fail "Docker could not log in to $1: $(tail -n 1 "$scratch/docker")"
    }
}

ensure_repository() {
    local describe=(ecr describe-repositories --region "$region" --repository-names "$image")
    local create=(ecr create-repository --region "$region" --repository-name "$image"
        --image-scanning-configuration scanOnPush=true)
    if $dry_run; then
        echo "$(quote aws "${describe[@]}") || $(quote aws "${create[@]}")"
    elif ! aws "${describe[@]}" >/dev/null 2>"$scratch/aws"; then
        grep -q RepositoryNotFoundException "$scratch/aws" || explain_aws
        echo "Creating the ECR repository $image in $region." >&2
        ask_aws "${create[@]}" >/dev/null
    fi
}

build() { # URI
    local command=(docker build)
    # SageMaker rejects the attestations that buildx adds; without buildx there are none, and no such flags.
    if $dry_run || docker buildx version >/dev/null 2>&1; then
        command=(docker buildx build --provenance=false --sbom=false --load)
    fi
    run "${command[@]}" --platform linux/amd64 --file "$root/container/Dockerfile" --tag "$1" \
        --build-arg "BASE_IMAGE=$base_image" --build-arg "PROGRAM=$program" "$root" && return
    fail_if_denied "$scratch/docker"
    ! grep -Eq 'pull access denied|no basic auth|manifest unknown|resolve source metadata' "$scratch/docker" ||
        fail "The base image $base_image could not be pulled; check its name, and that you are logged in to its registry."
    fail "The image could not be built; docker says why above."
}

push() { # URI
    run docker push "$1" && return
    fail_if_denied "$scratch/docker"
    fail "The image could not be pushed to ${1%%/*}; docker says why above. Are you logged in there?"
}

write_config() { # [URI]: without one, only makes sure that it will work
    if $dry_run && [[ $# -eq 1 ]]; then
        echo "# config.json: image_uri becomes $1"
        return
    fi
    python3 - "$root/config.json" "$@" <<'EOF'
import json, os, shutil, sys

path, *uri = sys.argv[1:]
try:
    with open(path, encoding="utf-8") as file:
        config = json.load(file)
    config.update(zip(["image_uri"], uri))
except (OSError, ValueError, AttributeError) as error:
    sys.exit(f"build_and_push.sh: --write-config needs a JSON object in {path}: {error}.")
if uri:
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, ensure_ascii=False)
        file.write("\n")
    shutil.copymode(path, path + ".new")
    os.replace(path + ".new", path)
EOF
}

main() {
    local ecr_host='^([0-9]{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?)/'
    local table dns_suffix aws_image regions account uri
    parse_arguments "$@"
    check_arguments
    $dry_run || check_docker
    ! $write_config || write_config
    if [[ -z $base_image || -z $registry ]]; then
        find_region
        table=$(read_base_images)
        read -r dns_suffix aws_image regions <<<"$table"
        base_image=${base_image:-$aws_image}
        [[ $base_image != - ]] ||
            reject "AWS has no scikit-learn image in region '$region'; choose one of: $regions."
    fi
    if [[ -z $registry ]]; then
        account=$(ask_aws sts get-caller-identity --region "$region" --query Account --output text)
        registry=$account.dkr.ecr.$region.$dns_suffix
        ensure_repository
        log_in "$registry"
    fi
    [[ ! $base_image =~ $ecr_host ]] || log_in "${BASH_REMATCH[1]}"
    uri=$registry/$image:$tag
    build "$uri"
    push "$uri"
    ! $write_config || write_config "$uri"
    echo "$uri"
}

main "$@"
