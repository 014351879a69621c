"""Turns of conversations, for tests."""


def turn(role, content, trained=None):
    return {
        "role": role,
        "content": content,
        "trained": role == "assistant" if trained is None else trained,
        "tool_calls": None,
    }
