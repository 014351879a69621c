from __future__ import annotations

import pytest
from supervisor.datatypes import dict_of_key_value_pairs
from supervisor.options import UnhosedConfigParser

from finetune_service.stack.exceptions import UnwritableError
from finetune_service.stack.parts import Part
from finetune_service.stack.settings import load_settings
from finetune_service.stack.supervision import Supervisor


def test_supervisor_reads_values_as_they_were_written():
    environment = {"A": "100%, 'half' so", "B": 'say "so" x', "C": "a=b;c#d\\e"}
    supervisor = Supervisor(load_settings(home="/h"))
    text = supervisor._configuration([Part("x", ["/a b/c", "--d"], environment)])
    parser = UnhosedConfigParser()
    parser.read_string(text)
    program = parser["program:x"]
    assert program["command"] == '"/a b/c" "--d"'
    read = dict_of_key_value_pairs(program["environment"].replace("%%", "%"))
    assert read == environment


@pytest.mark.parametrize("value", ["\"'", "a\nb", "a ;b", "a #b", "'a'"])
def test_a_value_that_supervisor_could_not_read_is_refused_without_repeating_it(value):
    supervisor = Supervisor(load_settings(home="/h"))
    with pytest.raises(UnwritableError, match="A has") as error:
        supervisor._configuration([Part("x", ["c"], {"A": f"{value}hidden{value}"})])
    assert "hidden" not in str(error.value)
