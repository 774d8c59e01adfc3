"""build_and_push.sh: every call it makes, in order, and every way in which it can fail.

The script runs in a copy of the project, with stand-ins for `docker` and `aws` that record how
they were called. The last tests put the real AWS CLI in front of moto's ECR.
"""

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

ROOT = Path(__file__).parents[1]
ACCOUNT = "123456789012"
PASSWORD = "the-secret-password"
TABLE = json.loads((ROOT / "container" / "base_images.json").read_text())
AWS_HOST = "141502667606.dkr.ecr.eu-west-1.amazonaws.com"
AWS_BASE = f"{AWS_HOST}/sagemaker-scikit-learn:1.9-0-cpu-py3"
OUR_HOST = f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com"
PROGRAMS_USED = ["bash", "cat", "dirname", "env", "grep", "mktemp", "rm", "tail", "tee", "tr"]

# Answers with the longest matching entry of replies.json: [exit code, stdout, stderr].
STAND_IN = f"""#!{sys.executable}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
call = [pathlib.Path(__file__).name, *sys.argv[1:]]
stdin = sys.stdin.read() if "--password-stdin" in call else None
with open(here / "calls.jsonl", "a") as file:
    print(json.dumps([call, stdin]), file=file)
replies = json.loads((here / "replies.json").read_text())
known = [key for key in replies if " ".join(call).startswith(key)]
code, out, err = replies[max(known, key=len)] if known else (0, "", "")
sys.stdout.write(out and out + "\\n")
sys.stderr.write(err and err + "\\n")
sys.exit(code)
"""

REPLIES = {
    "aws configure get region": (1, "", ""),
    "aws sts get-caller-identity": (0, ACCOUNT, ""),
    "aws ecr get-login-password": (0, PASSWORD, ""),
    "docker": (0, "docker is chatty", ""),
}


def aws_error(code, operation, text):
    return (
        254,
        "",
        f"\nAn error occurred ({code}) when calling the {operation} operation: {text}",
    )


MISSING = aws_error(
    "RepositoryNotFoundException", "DescribeRepositories", "The repository does not exist"
)


def denied(action):
    text = f"User: arn:aws:iam::1:user/u is not authorized to perform: {action} on resource: r"
    return aws_error("AccessDeniedException", action.split(":")[1], text)


def write_executable(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class Project:
    """A copy of what the script reads, and the stand-ins it meets."""

    def __init__(self, folder):
        self.root = folder / "my project"  # a path that needs quoting
        self.bin = folder / "bin"
        self.env = {
            "PATH": str(self.bin),
            "AWS_REGION": "eu-west-1",
            "TMPDIR": str(folder / "tmp"),
        }
        for sub in ("code", "container"):
            (self.root / sub).mkdir(parents=True)
        for name in ("model_logic.py", "credit_logic.py", "README.md"):
            (self.root / "code" / name).touch()
        shutil.copy(ROOT / "build_and_push.sh", self.root)
        shutil.copy(ROOT / "container" / "base_images.json", self.root / "container")
        self.config = self.root / "config.json"
        self.config.write_text('{"mode": "aws", "image_uri": null, "role_arn": "é"}')
        self.config.chmod(0o640)
        (folder / "tmp").mkdir()
        self.bin.mkdir()
        for program in PROGRAMS_USED:
            (self.bin / program).symlink_to(shutil.which(program))
        (self.bin / "python3").symlink_to(Path(sys.executable).resolve())
        for program in ("aws", "docker"):
            write_executable(self.bin / program, STAND_IN)
        self.reply({})

    def reply(self, replies):
        (self.bin / "replies.json").write_text(json.dumps({**REPLIES, **replies}))

    def run(self, *arguments):
        return subprocess.run(
            [str(self.root / "build_and_push.sh"), *arguments],
            env=self.env,
            cwd=self.bin.parent,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def pushes(self, *arguments):
        """Run with success expected, and return the URI."""
        result = self.run(*arguments)
        assert result.returncode == 0, result.stderr
        assert PASSWORD not in result.stdout + result.stderr
        [uri] = result.stdout.splitlines()
        return uri

    def fails(self, *arguments, code=1):
        """Run with failure expected, and return the script's own sentence."""
        result = self.run(*arguments)
        assert result.returncode == code, result.stderr
        assert result.stdout == ""
        assert PASSWORD not in result.stderr
        prefix = "build_and_push.sh: "
        [line] = [s for s in result.stderr.splitlines() if s.startswith(prefix)]
        return line.removeprefix(prefix)

    def calls(self):
        """What was run, and what it was given on stdin where that matters."""
        log = self.bin / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def commands(self):
        return [" ".join(command) for command, _ in self.calls()]


@pytest.fixture
def project(tmp_path):
    project = Project(tmp_path)
    yield project
    assert not list((tmp_path / "tmp").iterdir()), "the script left temporary files behind"


def build_of(project, uri, base=AWS_BASE, program="model_logic.py", buildx=True):
    start = "buildx build --provenance=false --sbom=false --load" if buildx else "build"
    return (
        f"docker {start} --platform linux/amd64 --file {project.root}/container/Dockerfile "
        f"--tag {uri} --build-arg BASE_IMAGE={base} --build-arg PROGRAM={program} {project.root}"
    )


def login_to(host):
    region = host.split(".")[3]
    return [
        f"aws ecr get-login-password --region {region}",
        f"docker login --username AWS --password-stdin {host}",
    ]


CHECK = ["docker version"]
IDENTITY = "aws sts get-caller-identity --region eu-west-1 --query Account --output text"
DESCRIBE = "aws ecr describe-repositories --region eu-west-1 --repository-names gam"
CREATE = (
    "aws ecr create-repository --region eu-west-1 --repository-name gam "
    "--image-scanning-configuration scanOnPush=true"
)


def sorted_pipes(commands):
    """Both ends of a pipe start at once, so their records may come in either order."""
    return [c for pair in zip(commands[::2], commands[1::2], strict=True) for c in sorted(pair)]


# ---- what is called --------------------------------------------------------------------------


def test_pushes_to_an_existing_ecr_repository(project):
    uri = project.pushes("gam")
    assert uri == f"{OUR_HOST}/gam:latest"
    commands = project.commands()
    assert commands[:3] == [*CHECK, IDENTITY, DESCRIBE]
    assert sorted_pipes(commands[3:7]) == [*login_to(OUR_HOST), *login_to(AWS_HOST)]
    assert commands[7:] == [
        "docker buildx version",
        build_of(project, uri),
        f"docker push {uri}",
    ]
    # The password reaches docker through stdin, and no command line.
    passwords = [stdin for command, stdin in project.calls() if "login" in command]
    assert passwords == [PASSWORD + "\n"] * 2
    assert PASSWORD not in " ".join(commands)


def test_creates_a_missing_repository(project):
    project.reply({"aws ecr describe-repositories": MISSING})
    project.pushes("gam")
    assert project.commands()[2:4] == [DESCRIBE, CREATE]


def test_program_tag_and_region_are_passed_on(project):
    uri = project.pushes(
        *("--program", "credit_logic.py", "--tag", "v1", "--region", "us-east-1", "team/gam")
    )
    host = f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com"
    base = AWS_BASE.replace("eu-west-1", "us-east-1").replace("141502667606", "683313688378")
    assert uri == f"{host}/team/gam:v1"
    assert build_of(project, uri, base, "credit_logic.py") in project.commands()


def test_region_in_china_has_its_own_domain(project):
    uri = project.pushes("--region", "cn-north-1", "gam")
    base_host = "450853457545.dkr.ecr.cn-north-1.amazonaws.com.cn"
    assert uri == f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/gam:latest"
    assert build_of(project, uri, f"{base_host}/sagemaker-scikit-learn:1.9-0-cpu-py3") in (
        project.commands()
    )
    assert set(login_to(base_host)) < set(project.commands())


def test_base_of_another_region_is_logged_in_to_there(project):
    base = AWS_BASE.replace("eu-west-1", "us-west-2")
    project.pushes("--base-image", base, "gam")
    logins = sorted_pipes(project.commands()[3:7])
    assert logins == [*login_to(OUR_HOST), *login_to(base.split("/")[0])]


def test_base_outside_ecr_needs_no_login(project):
    project.pushes("--base-image", "python:3.12-slim", "gam")
    assert [c for c in project.commands() if "login " in c] == [login_to(OUR_HOST)[1]]


@pytest.mark.parametrize("registry", ["localhost:5000", "localhost:5000/", "hub.example/team/x"])
def test_other_registry_and_base_make_no_call_to_aws(project, registry):
    (project.bin / "aws").unlink()
    del project.env["AWS_REGION"]
    uri = project.pushes("--registry", registry, "--base-image", "our/base:1", "gam")
    assert uri == f"{registry.rstrip('/')}/gam:latest"
    assert project.commands() == [
        *CHECK,
        "docker buildx version",
        build_of(project, uri, "our/base:1"),
        f"docker push {uri}",
    ]


def test_other_registry_with_the_base_of_aws_logs_in_to_the_base_only(project):
    project.pushes("--registry", "localhost:5000", "gam")
    assert [c for c in project.commands() if c.startswith("aws")] == login_to(AWS_HOST)[:1]


def test_plain_docker_knows_no_attestations(project):
    project.reply({"docker buildx version": (1, "", "docker: 'buildx' is not a docker command.")})
    uri = project.pushes("gam")
    assert build_of(project, uri, buildx=False) in project.commands()


@pytest.mark.parametrize(
    ("environment", "configured", "expected"),
    [
        ({"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-east-1"}, None, "eu-west-1"),
        ({"AWS_DEFAULT_REGION": "us-east-1"}, "eu-west-2", "us-east-1"),
        ({}, "eu-west-2", "eu-west-2"),
    ],
)
def test_region_comes_from_the_environment_then_the_configuration(
    project, environment, configured, expected
):
    del project.env["AWS_REGION"]
    project.env.update(environment)
    project.reply({"aws configure get region": (0, configured or "", "")})
    assert f".{expected}." in project.pushes("gam")


@pytest.mark.parametrize("region", TABLE["accounts"])
def test_every_region_has_a_base_image(project, region):
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    result = project.run("--dry-run", "--registry", "localhost:5000", "--region", region, "gam")
    host = f"{TABLE['accounts'][region]}.dkr.ecr.{region}.{domain}"
    assert f"BASE_IMAGE={host}/sagemaker-scikit-learn:1.9-0-cpu-py3 " in result.stdout


def test_help_explains_every_option(project):
    result = project.run("--help")
    assert result.returncode == 0
    for option in ("--program", "--tag", "--region", "--base-image", "--registry"):
        assert f"\n  {option} " in result.stdout
    assert project.run("-h").stdout == result.stdout


# ---- config.json -----------------------------------------------------------------------------


def test_config_gets_the_uri_and_keeps_the_rest(project):
    uri = project.pushes("--write-config", "gam")
    assert project.config.read_text() == (
        f'{{\n  "mode": "aws",\n  "image_uri": "{uri}",\n  "role_arn": "é"\n}}\n'
    )
    assert project.config.stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in project.root.iterdir() if "config" in p.name) == ["config.json"]


@pytest.mark.parametrize("step", ["docker push", "docker buildx build"])
def test_config_is_left_alone_when_a_step_fails(project, step):
    before = project.config.read_bytes()
    project.reply({step: (1, "", "broken pipe")})
    assert "docker says why above" in project.fails("--write-config", "gam")
    assert project.config.read_bytes() == before


def test_config_is_left_alone_unless_asked(project):
    before = project.config.read_bytes()
    project.pushes("gam")
    assert project.config.read_bytes() == before


@pytest.mark.parametrize("content", [None, "{", "[]", '"text"'])
def test_unusable_config_is_refused_before_the_build(project, content):
    project.config.unlink()
    if content is not None:
        project.config.write_text(content)
    assert "--write-config needs a JSON object in" in project.fails("--write-config", "gam")
    assert project.commands() == CHECK


# ---- dry run ---------------------------------------------------------------------------------


def test_dry_run_prints_what_a_run_would_do(project):
    (project.bin / "docker").unlink()
    before = project.config.read_bytes()
    result = project.run("--dry-run", "--write-config", "gam")
    assert result.returncode == 0, result.stderr
    uri = f"{OUR_HOST}/gam:latest"
    lines = result.stdout.splitlines()
    assert lines[:3] == [
        f"{DESCRIBE} || {CREATE}",
        " | ".join(login_to(OUR_HOST)),
        " | ".join(login_to(AWS_HOST)),
    ]
    assert " ".join(shlex.split(lines[3])) == build_of(project, uri)
    assert shlex.split(lines[3])[-1] == str(project.root)  # quoted, blank and all
    assert lines[4:] == [f"docker push {uri}", f"# config.json: image_uri becomes {uri}", uri]
    assert project.commands() == [IDENTITY]
    assert project.config.read_bytes() == before


def test_dry_run_to_another_registry_runs_nothing(project):
    result = project.run("--dry-run", "--registry", "localhost:5000", "gam")
    assert result.stdout.splitlines()[-1] == "localhost:5000/gam:latest"
    assert project.calls() == []


# ---- mistakes on the command line --------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "The name of the IMAGE is missing."),
        (["gam", "pam"], "Only one IMAGE can be built, got gam and pam."),
        (["--cached", "gam"], "There is no option --cached."),
        (["gam", "--tag"], "Option --tag needs a value."),
        (["--tag", "--dry-run", "gam"], "Option --tag needs a value."),
        (["--tag", "", "gam"], "Option --tag needs a value."),
        (["Gam"], "'Gam' is not a valid IMAGE"),
        (["gam:v1"], "a tag goes to --tag."),
        (["-gam"], "There is no option -gam."),
        (["gam-"], "'gam-' is not a valid IMAGE"),
        (["team//gam"], "'team//gam' is not a valid IMAGE"),
        (["g"], "'g' is not a valid IMAGE"),
        (["g" * 257], "is not a valid IMAGE"),
        (["--tag", "a b", "gam"], "'a b' is not a valid tag"),
        (["--tag", ".a", "gam"], "'.a' is not a valid tag"),
        (["--registry", "https://hub", "gam"], "Give the registry https://hub without https://."),
        (["--program", "tree.py", "gam"], "choose one of: credit_logic.py model_logic.py."),
        (["--program", "../config.json", "gam"], "There is no program '../config.json' in code/"),
        (["--region", "eu-wset-1", "gam"], "no scikit-learn image in region 'eu-wset-1'"),
    ],
)
def test_mistake_on_the_command_line_exits_with_2(project, arguments, sentence):
    message = project.fails(*arguments, code=2)
    assert sentence in message
    assert message.endswith("See ./build_and_push.sh --help.")
    assert project.commands() in ([], CHECK)


def test_unknown_region_lists_the_known_ones(project):
    message = project.fails("--region", "nowhere", "gam", code=2)
    assert " ".join(TABLE["accounts"]) in message


@pytest.mark.parametrize("image", ["ab", "1gam", "team/sub/my-gam_2.0", "a__b", "a--b"])
def test_names_that_ecr_takes_are_taken(project, image):
    assert project.pushes(image) == f"{OUR_HOST}/{image}:latest"


# ---- an environment that is not ready ----------------------------------------------------------


def test_without_docker(project):
    (project.bin / "docker").unlink()
    assert project.fails("gam").startswith("Docker is not installed")


def test_without_a_running_engine(project):
    words = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
    project.reply({"docker version": (1, "Client: 28", words)})
    message = project.fails("gam")
    assert message.startswith("Docker's engine does not answer")
    assert message.endswith(words)


def test_without_the_aws_cli(project):
    (project.bin / "aws").unlink()
    assert project.fails("gam").startswith("The AWS CLI is not installed")
    del project.env["AWS_REGION"]
    assert project.fails("gam").startswith("The AWS CLI is not installed")


def test_without_a_region(project):
    del project.env["AWS_REGION"]
    assert project.fails("gam").startswith("No AWS region is set; give --region")


@pytest.mark.parametrize(
    "words",
    [
        "Unable to locate credentials. You can configure credentials by running 'aws configure'.",
        "The config profile (work) could not be found",
        "An error occurred (InvalidClientTokenId) when calling the GetCallerIdentity operation: x",
    ],
)
def test_without_credentials(project, words):
    project.reply({"aws sts get-caller-identity": (253, "", words)})
    assert project.fails("gam").startswith("AWS has no valid credentials of yours")
    assert project.commands() == [*CHECK, IDENTITY]


@pytest.mark.parametrize(
    "words",
    [
        "An error occurred (ExpiredToken) when calling the GetCallerIdentity operation: x",
        "Error when retrieving token from sso: Token has expired and refresh failed",
    ],
)
def test_expired_credentials(project, words):
    project.reply({"aws sts get-caller-identity": (254, "", words)})
    assert project.fails("gam").startswith("Your AWS credentials have expired; sign in again")


def test_any_other_failure_of_aws_is_told_in_its_own_words(project):
    project.reply(
        {
            "aws sts get-caller-identity": (
                255,
                "",
                "Could not connect to the endpoint URL: https://x",
            )
        }
    )
    assert "failed in region eu-west-1:Could not connect to the endpoint" in project.fails("gam")


@pytest.mark.parametrize(
    ("command", "action"),
    [
        ("aws ecr describe-repositories", "ecr:DescribeRepositories"),
        ("aws ecr create-repository", "ecr:CreateRepository"),
        ("aws ecr get-login-password", "ecr:GetAuthorizationToken"),
        ("docker buildx build", "ecr:BatchGetImage"),
        ("docker push", "ecr:InitiateLayerUpload"),
    ],
)
def test_denied_permission_is_named(project, command, action):
    project.reply({"aws ecr describe-repositories": MISSING, command: denied(action)})
    message = project.fails("gam")
    assert message.startswith(f"AWS denied you {action};")
    assert "deploy/iam/build-and-push.json" in message
    policy = json.loads((ROOT / "deploy" / "iam" / "build-and-push.json").read_text())
    assert f'"{action}"' in json.dumps(policy)


def test_login_that_docker_refuses(project):
    project.reply({"docker login": (1, "", "error storing credentials: no keychain")})
    message = project.fails("gam")
    assert (
        message == f"Docker could not log in to {OUR_HOST}: error storing credentials: no keychain"
    )


@pytest.mark.parametrize(
    "words",
    [
        "pull access denied for x, repository does not exist or may require 'docker login'",
        "failed to solve: x: failed to resolve source metadata for x: 403 Forbidden",
        "manifest for x not found: manifest unknown",
        "Get https://x/v2/: no basic auth credentials",
    ],
)
def test_base_that_cannot_be_pulled(project, words):
    project.reply({"docker buildx build": (1, "", words)})
    result = project.fails("--base-image", "hub.example/x:1", "gam")
    assert result.startswith("The base image hub.example/x:1 could not be pulled")


# ---- the real tools ----------------------------------------------------------------------------


def require(tool):
    if not shutil.which(tool):
        missing = f"{tool} is not installed"
        if os.environ.get("REQUIRE_TOOLS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)


def test_shellcheck_finds_nothing():
    require("shellcheck")
    result = subprocess.run(
        ["shellcheck", str(ROOT / "build_and_push.sh")], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout


def test_real_aws_cli_creates_the_repository_once(project, moto_url):
    require("aws")
    (project.bin / "aws").unlink()
    project.env = {
        **os.environ,
        **project.env,
        "PATH": f"{project.bin}{os.pathsep}{os.environ['PATH']}",
        "AWS_ENDPOINT_URL": moto_url,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }
    project.env.pop("AWS_PROFILE", None)
    ecr = boto3.client(
        "ecr",
        region_name="eu-west-1",
        endpoint_url=moto_url,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )

    assert project.pushes("team/gam") == f"{OUR_HOST}/team/gam:latest"
    [created] = ecr.describe_repositories()["repositories"]
    assert created["repositoryName"] == "team/gam"
    assert created["imageScanningConfiguration"] == {"scanOnPush": True}
    logins = [command[-1] for command, stdin in project.calls() if stdin]
    assert logins == [OUR_HOST, AWS_HOST]

    project.pushes("team/gam")
    assert ecr.describe_repositories()["repositories"] == [created]
    ecr.close()
