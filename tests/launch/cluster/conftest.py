import pytest

from tests.commands import run


@pytest.fixture(scope="session")
def rendered(tmp_path_factory):
    """The folder that tests.launch.cluster.rendered writes."""
    folder = tmp_path_factory.mktemp("rendered")
    run("tests.launch.cluster.rendered", str(folder))
    return folder
