"""What `bench_serve.py` measures the model server against: an app for each peer."""

import importlib
import io
import os


async def echo(scope, receive, send):
    """Send the body back: what HTTP alone costs under uvicorn."""
    await reply(send, await read(receive))


async def multiply(scope, receive, send):
    """Send an npy back, times two: the least that a model server can do."""
    import numpy as np

    body, stream = await read(receive), io.BytesIO()
    if scope["path"] != "/ping":
        np.save(stream, np.load(io.BytesIO(body)) * 2.0)
    await reply(send, stream.getvalue())


def idle():
    """Make an app that has imported what any scikit-learn model needs."""
    import numpy  # noqa: F401
    import sklearn  # noqa: F401

    return echo


async def read(receive):
    """Return a request's body."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def reply(send, body):
    """Send a response."""
    headers = [
        (b"content-type", b"application/octet-stream"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def flask():
    """Serve the program through its hooks, as AWS's stack does."""
    from flask import Flask, Response, request

    program = importlib.import_module("model_logic")
    model = program.model_fn(os.environ["MODEL_DIR"])
    app = Flask(__name__)

    @app.get("/ping")
    def ping():
        return ""

    @app.post("/invocations")
    def invocations():
        data = program.input_fn(request.get_data(), request.content_type)
        answer = program.predict_fn(data, model)
        body, content_type = program.output_fn(answer, request.headers["Accept"])
        return Response(body, content_type=content_type)

    return app


try:
    from mlserver import MLModel
    from mlserver.codecs import NumpyCodec, NumpyRequestCodec
except ImportError:  # only MLServer's own environment has it
    pass
else:

    class Gam(MLModel):
        """Serve the model under MLServer, in the V2 protocol."""

        async def load(self):
            """Load the model."""
            self._program = importlib.import_module("model_logic")
            self._model = self._program.model_fn(os.environ["MODEL_DIR"])
            return True

        async def predict(self, payload):
            """Answer a request."""
            X = NumpyCodec.decode_input(payload.inputs[0])
            prediction = self._model.predict(X)
            return NumpyRequestCodec.encode_response(self.name, prediction)
