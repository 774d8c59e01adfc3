"""config.json is read key by key, and each mistake is named."""

import json
from pathlib import Path

import pytest

from local_mode import Config, ConfigError, load_config

AWS = {
    "mode": "aws",
    "role_arn": "arn:aws:iam::123456789012:role/sagemaker-execution",
    "image_uri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/gam-model:latest",
}


def write(folder: Path, content: object) -> Path:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_projects_own_file_is_valid():
    config = load_config(Path(__file__).parents[2] / "config.json")
    assert config.mode == "process"


@pytest.mark.parametrize("mode", ["process", "docker"])
def test_local_modes_need_no_account(tmp_path, mode):
    config = load_config(write(tmp_path, {"mode": mode}))
    assert config.train_instance_type == config.serve_instance_type == "local"
    assert config.role_arn.startswith("arn:aws:iam::")


def test_aws_mode_keeps_what_the_file_says(tmp_path):
    assert load_config(write(tmp_path, AWS)) == Config(**AWS)


def test_a_china_registry_is_an_ecr_registry():
    uri = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/gam-model:latest"
    role = "arn:aws-cn:iam::123456789012:role/x"
    assert Config.from_dict(AWS | {"image_uri": uri, "role_arn": role}).image_uri == uri


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"mdoe": "aws"}, "unknown key 'mdoe'; did you mean 'mode'"),
        ({"mode": "local"}, "mode must be one of process, docker, aws, got 'local'"),
        ({"mode": None}, "mode must be a string, got None"),
        ({"region": 1}, "region must be a string or null, got 1"),
        ({"default_bucket": "My_Bucket"}, "default_bucket must be .* got 'My_Bucket'"),
        ({"image_uri": ""}, "image_uri must name an image"),
        ({"hyperparameters": [1]}, r"hyperparameters must be an object, got \[1\]"),
        ({"train_instance_type": None}, "train_instance_type must be a string, got None"),
        (AWS | {"role_arn": None}, "role_arn must be the ARN .* got None"),
        (AWS | {"role_arn": "admin"}, "role_arn must be the ARN .* got 'admin'"),
        (AWS | {"image_uri": "gam-model"}, "image_uri must be an image in ECR .*build_and_push"),
        (AWS | {"serve_instance_type": "local"}, "serve_instance_type must be .* got 'local'"),
        ([], "must hold one JSON object"),
        ("{", "is not valid JSON"),
    ],
)
def test_mistakes_are_named(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as error:
        load_config(write(tmp_path, content))
    assert "config.json" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json does not exist"):
        load_config(tmp_path / "nowhere.json")


def test_the_variable_config_names_another_file(tmp_path, monkeypatch):
    monkeypatch.setenv("CONFIG", str(write(tmp_path, {"mode": "docker"})))
    assert load_config().mode == "docker"
