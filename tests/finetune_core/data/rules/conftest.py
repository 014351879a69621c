import pytest

from finetune_core.data.formats import assistant, user


@pytest.fixture
def turns():
    """Makes the messages of a prompt and an answer."""

    def turns(prompt, answer="an answer"):
        return [user(prompt), assistant(answer)]

    return turns
