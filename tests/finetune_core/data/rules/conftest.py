import pytest

from finetune_core.data.formats import Conversation, assistant, user


@pytest.fixture
def turns():
    """Makes the conversation of a prompt and an answer."""

    def turns(prompt, answer="an answer"):
        return Conversation([user(prompt), assistant(answer)], None, [])

    return turns
