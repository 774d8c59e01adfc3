"""Code that is sent to a ready image is what runs, in training as in serving."""

import json
import shutil
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from sagemaker.estimator import Estimator
from sagemaker.exceptions import UnexpectedStatusException
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.sklearn import SKLearn

from local_mode import Config, session_for

ROOT = Path(__file__).parents[2]
ROLE = "arn:aws:iam::123456789012:role/local"

# Trains a model that is a word, and answers with it and with a word of its own.
PROGRAM = """
import json, os, sys
from pathlib import Path
import program_toolkit  # the image's

WORD = "sent"

def model_fn(model_dir): return Path(model_dir, "word").read_text()
def input_fn(body, content_type): return body
def predict_fn(data, model): return [model, WORD]
def output_fn(prediction, accept): return json.dumps(prediction), "application/json"

if __name__ == "__main__":
    print("trained by", WORD, *sys.argv[1:], flush=True)
    Path(os.environ["SM_MODEL_DIR"], "word").write_text(WORD)
"""


@pytest.fixture
def source(tmp_path):
    """Write a source directory; return its path."""

    def write(name="train.py", text=PROGRAM, **files: str) -> str:
        folder = tmp_path / "source"
        for path, content in {name: text, **files}.items():
            file = folder / path.replace("__", "/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(content))
        return str(folder)

    return write


def estimator(session, cls=Estimator, **sent) -> Estimator:
    return cls(
        image_uri="gam-model",
        role=ROLE,
        instance_count=1,
        instance_type="local",
        sagemaker_session=session,
        **sent,
    )


def fail(failing: Estimator) -> str:
    """Fit, and return why that failed."""
    with pytest.raises(UnexpectedStatusException) as error:
        failing.fit()
    client = failing.sagemaker_session.sagemaker_client
    job = client.describe_training_job(TrainingJobName=failing._current_job_name)
    assert job["FailureReason"] in str(error.value)
    assert "\n" not in job["FailureReason"]
    return job["FailureReason"]


def ask(predictor: Predictor) -> list[str]:
    """Return the model's word and the program's, and delete the endpoint."""
    # Frameworks' predictors have codecs of their own.
    plain = Predictor(predictor.endpoint_name, predictor.sagemaker_session)
    answer = json.loads(plain.predict(b"?", initial_args={"ContentType": "text/plain"}))
    predictor.delete_endpoint()
    return answer


def log_of(predictor: Predictor) -> str:
    client = predictor.sagemaker_session.boto_session.client("logs")
    group = f"/aws/sagemaker/Endpoints/{predictor.endpoint_name}"
    time.sleep(0.5)  # lines come within a fraction of a second
    events = client.filter_log_events(logGroupName=group)["events"]
    return "\n".join(event["message"] for event in events)


def upload(session, folder: str, key: str, top: str = ".") -> str:
    archive = Path(folder).with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        for path in Path(folder).iterdir():
            tar.add(path, arcname=f"{top}/{path.name}")
    session.s3_client.upload_file(str(archive), session.default_bucket(), key)
    return f"s3://{session.default_bucket()}/{key}"


# ---- every way to send it ----------------------------------------------------------------------


def send_folder(session, folder):
    return {"entry_point": "train.py", "source_dir": folder}


def send_file(session, folder):
    return {"entry_point": f"{folder}/train.py"}


def send_archive(session, folder):
    return {"entry_point": "train.py", "source_dir": upload(session, folder, "code/s.tar.gz")}


def send_archive_with_a_top_folder(session, folder):
    uri = upload(session, folder, "code/top.tar.gz", top="project-1.0")
    return {"entry_point": "train.py", "source_dir": uri}


def send_to_an_isolated_job(session, folder):
    return {**send_folder(session, folder), "enable_network_isolation": True}


def send_with_a_framework(session, folder):
    return {**send_folder(session, folder), "cls": SKLearn}


SENDERS = [
    send_folder,
    send_file,
    send_archive,
    send_archive_with_a_top_folder,
    send_to_an_isolated_job,
    send_with_a_framework,
]


@pytest.mark.parametrize("send", SENDERS)
def test_what_is_sent_trains_and_then_serves(session, source, capsys, send):
    trained = estimator(session, **send(session, source()), hyperparameters={"max-depth": 3})
    trained.fit()
    log = capsys.readouterr().out
    assert "trained by sent --max-depth 3" in log
    assert "abandoning" not in log
    assert ask(trained.deploy(1, "local")) == ["sent", "sent"]


def test_a_folder_on_this_machine_is_sent_as_a_copy(source, capsys):
    text = PROGRAM.replace('print("trained', 'Path("written").touch(); print("trained')
    folder = source(text=text)
    with session_for(Config()) as session:
        session.config = {"local": {"local_code": True}}
        trained = estimator(session, entry_point="train.py", source_dir=folder)
        trained.output_path = f"s3://{session.default_bucket()}"
        trained.fit()
        assert "trained by sent" in capsys.readouterr().out
        predictor = deploy(session, trained.model_data, entry_point="train.py", source_dir=folder)
        assert ask(predictor) == ["sent", "sent"]
    assert sorted(path.name for path in Path(folder).iterdir()) == ["train.py"]


def test_one_line_more_in_the_images_own_program_shows(session, tmp_path, capsys):
    folder = tmp_path / "code"
    shutil.copytree(ROOT / "code", folder, ignore=shutil.ignore_patterns("__pycache__"))
    program = folder / "model_logic.py"
    program.write_text('print("one line more", flush=True)\n' + program.read_text())
    data = f"s3://{session.default_bucket()}/line"
    body = b"".join(b"%d,%d\n" % (x, 3 * x + 1) for x in range(40))
    session.s3_client.put_object(Bucket=session.default_bucket(), Key="line/l.csv", Body=body)
    trained = estimator(session, entry_point="model_logic.py", source_dir=str(folder))
    trained.set_hyperparameters(df=5)
    trained.fit({"train": data})
    assert "one line more" in capsys.readouterr().out
    predictor = trained.deploy(1, "local")
    assert "one line more" in log_of(predictor)
    predictor.delete_endpoint()
    # The next job of the session is sent nothing.
    own = estimator(session, hyperparameters={"df": 5})
    own.fit({"train": data})
    log = capsys.readouterr().out
    assert "r2_train=1;" in log
    assert "one line more" not in log


def test_dependencies_are_found_in_training_and_in_serving(session, source, tmp_path):
    library = tmp_path / "shared_words"
    library.mkdir()
    (library / "__init__.py").write_text('WORD = "shared"\n')
    text = PROGRAM.replace('WORD = "sent"', "from shared_words import WORD")
    sent = {"entry_point": "train.py", "source_dir": source(text=text)}
    trained = estimator(session, **sent, dependencies=[str(library)])
    trained.fit()
    assert ask(trained.deploy(1, "local")) == ["shared", "shared"]
    packed = {**sent, "dependencies": [str(library)]}
    assert ask(trained.deploy(1, "local", **packed)) == ["shared", "shared"]


def test_the_images_modules_give_way_to_what_is_sent(session, source, capsys):
    text = PROGRAM.replace('WORD = "sent"', "WORD = program_toolkit.WORD")
    folder = source(text=text, **{"program_toolkit.py": "WORD = 'mine'\n"})
    estimator(session, entry_point="train.py", source_dir=folder).fit()
    assert "trained by mine" in capsys.readouterr().out


def test_a_program_may_lie_in_a_folder_of_what_is_sent(session, source, capsys):
    folder = source(name="bin/train.py", **{"other.txt": ""})
    trained = estimator(session, entry_point="bin/train.py", source_dir=folder)
    trained.fit()
    assert "trained by sent" in capsys.readouterr().out
    assert ask(trained.deploy(1, "local")) == ["sent", "sent"]


def test_a_shell_script_trains(session, source, capsys):
    script = '#!/bin/sh\necho "script: $*"\necho shell > "$SM_MODEL_DIR/word"\n'
    folder = source("train.sh", script)
    trained = estimator(session, entry_point="train.sh", source_dir=folder)
    trained.set_hyperparameters(note="a b; c")
    trained.fit()
    assert "script: --note a b; c" in capsys.readouterr().out
    with pytest.raises(UnexpectedStatusException, match=r"train\.sh is not a Python file"):
        trained.deploy(1, "local", entry_point="train.sh", source_dir=folder)


def test_a_package_trains(session, source, capsys):
    setup = "from setuptools import setup\nsetup(name='sent-words', py_modules=['sent_words'])\n"
    text = PROGRAM.replace('WORD = "sent"', "from sent_words import WORD")
    folder = source(text=text, **{"setup.py": setup, "sent_words.py": "WORD = 'packaged'\n"})
    estimator(session, entry_point="train.py", source_dir=folder).fit()
    assert "trained by packaged" in capsys.readouterr().out
    assert not list(Path(folder).glob("*.egg-info"))


# ---- serving -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def word(session, tmp_path_factory):
    """Upload a model, with further files in it; return its URI."""

    def write(key="model/model.tar.gz", **files: str) -> str:
        folder = tmp_path_factory.mktemp("model")
        for name, content in {"word": "trained", **files}.items():
            file = folder / name.replace("__", "/")
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
        return upload(session, str(folder), key)

    return write


def deploy(session, uri: str, **sent) -> Predictor:
    model = Model(
        "gam-model", uri, ROLE, sagemaker_session=session, predictor_cls=Predictor, **sent
    )
    return model.deploy(1, "local")


def test_an_entry_point_alone_serves(session, word, source):
    predictor = deploy(session, word(), entry_point=f"{source('serve.py')}/serve.py")
    assert "code/serve.py and its model loaded" in log_of(predictor)
    assert ask(predictor) == ["trained", "sent"]


def test_another_entry_point_than_the_trainings_serves(session, source):
    folder = source(**{"serve.py": PROGRAM.replace('"sent"', '"served"')})
    trained = estimator(session, entry_point="train.py", source_dir=folder)
    trained.fit()
    alone = trained.deploy(1, "local", entry_point=f"{folder}/serve.py")
    assert ask(alone) == ["sent", "served"]
    packed = trained.deploy(1, "local", entry_point="serve.py", source_dir=folder)
    assert ask(packed) == ["sent", "served"]


def test_what_is_sent_wins_over_the_code_in_the_model(session, word, source):
    old = PROGRAM.replace('"sent"', '"old"')
    uri = word("old/model.tar.gz", **{"code__serve.py": old})
    assert ask(deploy(session, uri, env={"SAGEMAKER_PROGRAM": "serve.py"})) == ["trained", "old"]
    sent = deploy(session, uri, entry_point=f"{source('serve.py')}/serve.py")
    assert ask(sent) == ["trained", "sent"]


def test_the_code_in_a_model_serves_by_sagemakers_own_name_for_it(session, word):
    uri = word("named/model.tar.gz", **{"code__inference.py": PROGRAM})
    assert ask(deploy(session, uri)) == ["trained", "sent"]


def test_a_program_without_hooks_leaves_serving_to_the_image(session, source):
    text = "import os\nopen(os.environ['SM_MODEL_DIR'] + '/word', 'w').write('x')\n"
    trained = estimator(session, entry_point="train.py", source_dir=source(text=text))
    trained.fit()
    # The image's own program, which finds no model of its kind.
    with pytest.raises(
        UnexpectedStatusException, match=r"cannot load the model: .*model/gam\.json"
    ):
        trained.deploy(1, "local")


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (
            {"SAGEMAKER_PROGRAM": "absent.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"},
            "no program 'absent.py' in .*/model/code, which holds other.py;",
        ),
        ({"SAGEMAKER_SUBMIT_DIRECTORY": "s3://sagemaker-local/none.tar.gz"}, "none.tar.gz cannot"),
        ({"SAGEMAKER_SUBMIT_DIRECTORY": "file:///none"}, "the code at file:///none cannot be"),
    ],
)
def test_code_that_is_not_there_is_named(session, word, environment, line):
    uri = word("other/model.tar.gz", **{"code__other.py": ""})
    with pytest.raises(UnexpectedStatusException, match=line):
        deploy(session, uri, env=environment)


def test_a_program_may_not_have_another_modules_name(session, word, source):
    with pytest.raises(
        UnexpectedStatusException, match=r"json\.py has the name of another module"
    ):
        deploy(session, word(), entry_point=f"{source('json.py')}/json.py")


# ---- requirements ------------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels, from which alone pip installs: greeting 1.0, and another packaging."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, version in (("greeting", "1.0"), ("packaging", "0.1")):
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(wheels / f"{name}-{version}-py3-none-any.whl", "w") as w:
            w.writestr(f"{name}/__init__.py", f"WORD = '{name} {version}'\n")
            w.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
            w.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            w.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))


@pytest.mark.usefixtures("index")
def test_requirements_are_installed_for_this_job_and_its_endpoint_alone(session, source, capsys):
    text = PROGRAM.replace('WORD = "sent"', "from greeting import WORD")
    folder = source(text=text, **{"requirements.txt": "greeting\nnumpy\n"})
    trained = estimator(session, entry_point="train.py", source_dir=folder)
    trained.fit()
    assert "trained by greeting 1.0" in capsys.readouterr().out
    assert ask(trained.deploy(1, "local")) == ["greeting 1.0", "greeting 1.0"]
    (Path(folder) / "requirements.txt").unlink()
    next_job = estimator(session, entry_point="train.py", source_dir=folder)
    assert fail(next_job) == "ModuleNotFoundError: No module named 'greeting'"


@pytest.mark.usefixtures("index")
def test_requirements_win_over_the_images_versions(session, source, capsys):
    text = PROGRAM.replace('WORD = "sent"', "from packaging import WORD")
    folder = source(text=text, **{"requirements.txt": "packaging==0.1\n"})
    estimator(session, entry_point="train.py", source_dir=folder).fit()
    assert "trained by packaging 0.1" in capsys.readouterr().out


@pytest.mark.usefixtures("index")
def test_requirements_that_cannot_be_installed_are_named(session, source, word):
    folder = source(**{"requirements.txt": "no-such-package-of-ours\n"})
    sentence = (
        "requirements.txt cannot be installed: "
        "No matching distribution found for no-such-package-of-ours"
    )
    assert fail(estimator(session, entry_point="train.py", source_dir=folder)) == sentence
    with pytest.raises(UnexpectedStatusException, match=sentence):
        deploy(session, word(), entry_point="train.py", source_dir=folder)


def test_without_a_network_the_failure_says_so(session, source, word, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # where nobody listens
    monkeypatch.setenv("PIP_RETRIES", "1")
    folder = source(**{"requirements.txt": "no-such-package-of-ours\n"})
    sentence = "requirements.txt cannot be installed: no package index can be reached; "
    assert fail(estimator(session, entry_point="train.py", source_dir=folder)).startswith(sentence)
    with pytest.raises(UnexpectedStatusException, match=sentence):
        deploy(session, word(), entry_point="train.py", source_dir=folder)


# ---- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit('the data are too old')", "the data are too old"),
        ("import sys; sys.exit(3)", "train.py ended with exit code 3 and gave no reason"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            "train.py was killed by SIGKILL, as happens when memory runs out",
        ),
    ],
)
def test_a_program_that_dies_gives_its_last_line_as_the_reason(session, source, text, reason):
    assert fail(estimator(session, entry_point="train.py", source_dir=source(text=text))) == reason


def test_what_a_program_says_itself_is_the_reason(session, source):
    text = """
        import os, sys
        with open(os.environ["SM_OUTPUT_DIR"] + "/failure", "w") as file:
            file.write("my own words")
        sys.exit("the last line")
    """
    folder = source(text=text)
    assert fail(estimator(session, entry_point="train.py", source_dir=folder)) == "my own words"


def test_what_was_not_sent_is_never_trained(session, source):
    uri = upload(session, source("other.py"), "code/other.tar.gz")
    # model_logic.py is in the image; what was sent lacks it.
    failing = estimator(session, entry_point="model_logic.py", source_dir=uri)
    reason = fail(failing)
    assert reason.startswith("no program 'model_logic.py' in ")
    assert ", which holds other.py; " in reason
    absent = estimator(session, entry_point="train.py", source_dir="s3://sagemaker-local/x.tar.gz")
    assert fail(absent).startswith(
        "the code at s3://sagemaker-local/x.tar.gz cannot be unpacked: "
    )


def test_a_misspelt_program_of_the_images_is_named(session):
    failing = estimator(session, environment={"SAGEMAKER_PROGRAM": "credit_lojic.py"})
    reason = fail(failing)
    assert reason.startswith("no program 'credit_lojic.py' in ")
    assert "credit_logic.py" in reason
