"""The program's page at /, which is off unless it is asked for."""

import pytest

from model_server.settings import Settings

ECHO = """
def model_fn(model_dir): return model_dir
def input_fn(body, content_type): return body
def predict_fn(data, model): return data
def output_fn(prediction, accept): return prediction, accept
"""
WITH_PAGE = ECHO + "def page_fn(model_dir): return '<p>' + model_dir.rpartition('/')[2]\n"


@pytest.mark.parametrize("value", [None, "", "false", "0"])
def test_it_is_off_unless_asked_for(value, serve, base, program):
    variables = {} if value is None else {"MODEL_SERVER_PAGE": value}
    with serve(base, program(WITH_PAGE), **variables) as endpoint:
        assert endpoint.request("GET", "/").status == 404


def test_it_is_at_the_root_and_may_not_be_framed(serve, base, program):
    with serve(base, program(WITH_PAGE), MODEL_SERVER_PAGE="true") as endpoint:
        answer = endpoint.request("GET", "/")
        assert (answer.status, answer.body) == (200, b"<p>model")
        assert answer.content_type == "text/html; charset=utf-8"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert endpoint.request("POST", "/").status == 405
        assert endpoint.request("OPTIONS", "/invocations", Origin="http://other").status == 405


def test_a_program_without_a_page_ends_the_server_in_a_sentence(serve, base, program):
    told = "MODEL_SERVER_PAGE asks for a page, and .* has no page_fn to write it"
    with (
        pytest.raises(AssertionError, match=told),
        serve(base, program(ECHO), MODEL_SERVER_PAGE="true"),
    ):
        pass


def test_another_value_is_refused():
    with pytest.raises(ValueError, match="MODEL_SERVER_PAGE='on' is neither true nor false"):
        Settings.from_environ({"SAGEMAKER_PROGRAM": "p.py", "MODEL_SERVER_PAGE": "on"})
