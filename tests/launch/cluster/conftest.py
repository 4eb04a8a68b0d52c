import pytest

from tests.commands import run


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """A folder of what tests.launch.rendered writes."""
    folder = tmp_path_factory.mktemp("rendered")
    run("tests.launch.rendered", str(folder))
    return folder
