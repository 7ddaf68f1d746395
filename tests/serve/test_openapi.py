"""schemathesis draws requests from the API's own description: no 500, and answers as described."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from longva.serve.app import create_app
from longva.serve.limits import Limits
from longva.serve.media.fetch import MediaFetcher
from tests.serve.conftest import engine_of

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def api(longva, tmp_path_factory):
    limits = Limits(new_tokens=2, prompt_characters=500)
    fetcher = MediaFetcher(tmp_path_factory.mktemp("spool"), limits)
    engine = engine_of(longva, limits, 2**28)
    app = create_app(engine, fetcher, model_name="random")
    yield schemathesis.openapi.from_asgi("/openapi.json", app)
    engine.worker.stop()


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_any_request_is_answered_as_described(api, mode):
    statuses = set()
    for result in api.get_all_operations():
        operation = result.ok()
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # nothing in a bare GET can be wrong

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def answered_as_described(case):
            if isinstance(case.body, dict) and len(str(case.body)) % 4:
                case.body["model"] = "random"  # else nearly all end at the unknown model
            statuses.add(case.call_and_validate(checks=CHECKS).status_code)

        answered_as_described()
    assert {400, 404} <= statuses if mode is GenerationMode.POSITIVE else 400 in statuses
