"""A config is right, or says everything that is wrong with it."""

from __future__ import annotations

import json
import math
import pickle

import pytest
from pydantic import ValidationError

from finetune_core.config import PipelineConfig
from finetune_core.config.pipeline import read_mapping
from finetune_core.exceptions import (
    IncompatibleConfigError,
    InvalidConfigError,
    MissingConfigError,
)
from finetune_core.types import DatasetFormat, Template, TrainingMethod

DATASET = {"dataset": {"path": "rows.jsonl"}}
HUB = {"source": "hub"}
FULL = {
    "model": {"name": "some/model", "revision": "v1", "quantization_bits": 4},
    "dataset": {
        "path": "rows.csv",
        "input_field": "q",
        "output_field": "a",
        "evaluation_path": "held.jsonl",
        "seed": 7,
        "sanitize": {
            "secret": "redact",
            "roles": "off",
            "language": "drop",
            "languages": ["en", "de"],
            "near_leak": "flag",
            "label_imbalance": None,
        },
    },
    "tokenization": {"max_length": 64, "template": "plain"},
    "training": {
        "output_dir": "/tmp/out",
        "epochs": 2,
        "learning_rate": 1e-5,
        "batch_size": 8,
        "micro_batch_size": 4,
        "scheduler": "cosine",
        "precision": "bf16",
    },
    "lora": {"lora_rank": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "evaluation": {"metrics": ["bleu", "rougeL"]},
    "registry": {"model_name": "my-model", "alias": "best"},
}


def parse(**sections):
    return PipelineConfig.parse(DATASET | sections)


def faults(kind, value, **options):
    with pytest.raises(kind) as caught:
        PipelineConfig.parse(value, **options)
    assert type(caught.value) is kind
    assert all(str(fault) in str(caught.value) for fault in caught.value.faults)
    return dict(caught.value.faults)


def test_five_faults_are_reported_together_with_their_values():
    found = faults(
        InvalidConfigError,
        DATASET
        | {
            "model": {"quantization_bits": 5},
            "training": {"epochs": 11, "learning_rate": "fast", "batch_size": 0},
            "lora": {"lora_dropout": 0.75},
        },
    )
    assert list(found) == [
        "model.quantization_bits",
        "training.epochs",
        "training.learning_rate",
        "training.batch_size",
        "lora.lora_dropout",
    ]
    for problem, value in zip(found.values(), ["5", "11", "'fast'", "0", "0.75"], strict=True):
        assert problem.endswith(f"(got {value})")


def test_only_missing_fields_are_a_missing_config():
    assert faults(MissingConfigError, {}) == {"dataset": "is required"}
    assert faults(MissingConfigError, {"dataset": {}}) == {"dataset.path": "is required"}


@pytest.mark.parametrize(
    ("sections", "path"),
    [
        ({"dataset": {"path": "x", "input_field": "q"}}, "dataset.output_field"),
        ({"dataset": {"path": "x", "output_field": "a"}}, "dataset.input_field"),
        (
            {"dataset": {"path": "x", "input_field": "q", "output_field": "q"}},
            "dataset.input_field",
        ),
        (
            {"dataset": {"path": "x", "input_field": "q", "output_field": "a", "format": "text"}},
            "dataset.format",
        ),
        (
            {"dataset": {"path": "x", "validation_path": "v", **HUB, "validation_split": "v"}},
            "dataset.validation_split",
        ),
        (
            {"dataset": {"path": "x", "evaluation_path": "e", **HUB, "evaluation_split": "e"}},
            "dataset.evaluation_split",
        ),
        ({"dataset": {"path": "x", "subset": "s"}}, "dataset.subset"),
        ({"dataset": {"path": "x", "revision": "v1"}}, "dataset.revision"),
        ({"dataset": {"path": "x", "split": "test"}}, "dataset.split"),
        ({"dataset": {"path": "x", "validation_split": "v"}}, "dataset.validation_split"),
        ({"dataset": {"path": "x", "evaluation_split": "e"}}, "dataset.evaluation_split"),
        (
            {"dataset": {"path": "x", "sanitize": {"language": "drop"}}},
            "dataset.sanitize.languages",
        ),
        ({"training": {"batch_size": 6, "micro_batch_size": 4}}, "training.micro_batch_size"),
        ({"training": {"batch_size": 4, "micro_batch_size": 8}}, "training.micro_batch_size"),
        (
            {"training": {"batch_size": 8, "micro_batch_size": 8, "num_processes": 2}},
            "training.micro_batch_size",
        ),
        ({"training": {"num_processes": 3}}, "training.num_processes"),  # of 16 rows
        ({"training": {"num_processes": 2, "num_machines": 4}}, "training.num_processes"),
        ({"training": {"method": "qlora", "strategy": "fsdp"}}, "training.strategy"),
        (
            {
                "training": {"method": "qlora"},
                "lora": {"initialization": "pissa", "lora_dropout": 0},
            },
            "lora.initialization",
        ),
        ({"lora": {"initialization": "pissa"}}, "lora.lora_dropout"),
        ({"training": {"method": "qlora"}, "lora": {"use_dora": True}}, "lora.use_dora"),
        ({"training": {"method": "full_finetuning"}, "lora": {"r": 8}}, "lora.lora_rank"),
        ({"training": {"method": "full_finetuning"}, "lora": {"use_dora": True}}, "lora.use_dora"),
        (
            {"training": {"method": "full_finetuning"}, "model": {"torch_dtype": "float16"}},
            "model.torch_dtype",
        ),
        (
            {
                "training": {"method": "instruction_tuning"},
                "dataset": {"path": "x", "format": "text"},
            },
            "dataset.format",
        ),
    ],
)
def test_only_an_exclusion_is_an_incompatible_config(sections, path):
    assert list(faults(IncompatibleConfigError, DATASET | sections)) == [path]


def test_two_exclusions_are_reported_together():
    found = faults(
        IncompatibleConfigError,
        {
            "dataset": {"path": "x", "input_field": "q"},
            "training": {"batch_size": 6, "micro_batch_size": 4},
        },
    )
    assert set(found) == {"dataset.output_field", "training.micro_batch_size"}


def test_a_wrong_value_and_an_exclusion_are_reported_together():
    found = faults(
        InvalidConfigError,
        {"dataset": {"path": "x", "input_field": "q"}, "training": {"epochs": 11}},
    )
    assert set(found) == {"training.epochs", "dataset.output_field"}


def test_a_missing_field_beside_a_wrong_value_is_an_invalid_config():
    found = faults(InvalidConfigError, {"training": {"epochs": 11}})
    assert set(found) == {"dataset", "training.epochs"}


@pytest.mark.parametrize(
    ("sections", "path", "near"),
    [
        ({"trainig": {}}, "trainig", "training"),
        ({"training": {"epoch": 3}}, "training.epoch", "epochs"),
        ({"lora": {"lora_rnak": 8}}, "lora.lora_rnak", "lora_rank"),
    ],
)
def test_an_unknown_field_is_told_the_near_name(sections, path, near):
    found = faults(InvalidConfigError, DATASET | sections)
    assert found == {path: f"is not a setting (did you mean {near}?)"}


def test_an_unknown_field_like_no_other_gets_no_suggestion():
    assert faults(InvalidConfigError, DATASET | {"zzz": 1}) == {"zzz": "is not a setting"}


@pytest.mark.parametrize("value", [5, None, "x", []])
def test_a_section_that_is_no_mapping_is_a_fault_of_the_section(value):
    assert list(faults(InvalidConfigError, DATASET | {"training": value})) == ["training"]


def test_the_source_is_named():
    with pytest.raises(MissingConfigError, match=r"in job\.yaml"):
        PipelineConfig.parse({}, source="job.yaml")


def test_the_constructor_reports_all_faults_too():
    with pytest.raises(ValidationError) as caught:
        PipelineConfig(dataset={"path": "x", "input_field": "q"}, training={"epochs": 11})
    assert caught.value.error_count() == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"validation_path": "v", "evaluation_path": "e", "format": "preference"},
        {"subset": "s", "split": "test", "revision": "v1", "validation_split": "v", **HUB},
        {"validation_path": "v", "evaluation_split": "e", **HUB},
        {"sanitize": {"language": "off", "languages": []}},
        {"sanitize": {"language": "flag", "languages": ["en"]}},
    ],
)
def test_what_does_not_exclude_each_other_is_taken_together(fields):
    config = parse(dataset={"path": "x", **fields})
    dumped = config.model_dump(mode="json")["dataset"]
    for name, value in fields.items():
        expected = dumped[name] | value if isinstance(value, dict) else value
        assert dumped[name] == expected


@pytest.mark.parametrize(
    ("rule", "good", "bad"),
    [
        ("unicode", ["off", "flag", "change"], ["drop", "redact", True]),
        *((kind, ["off", "flag", "redact", "drop"], ["change"]) for kind in ("secret", "email")),
        *((kind, ["off", "flag", "redact", "drop"], ["change"]) for kind in ("iban", "card")),
        ("phone", ["off", "flag", "redact", "drop"], ["change"]),
        *((rule, ["off", "flag", "drop"], ["redact", None]) for rule in ("empty", "roles")),
        *((rule, ["off", "flag", "drop"], ["redact", ""]) for rule in ("duplicate", "conflict")),
        *((rule, ["off", "flag", "drop"], ["change"]) for rule in ("near_duplicate", "near_leak")),
        *((rule, ["off", "flag", "drop"], ["change"]) for rule in ("leak", "language")),
        ("near_threshold", [0.5, 1.0], [0.49, 1.01, math.nan, "high"]),
        ("label_imbalance", [None, 1.0], [0.9, -1, math.nan]),
        ("phone_region", [None, "US", "DE"], ["us", "USA", ""]),
    ],
)
def test_a_rule_takes_what_it_can_do_and_nothing_else(rule, good, bad):
    for value in good:
        sanitize = {"languages": ["en"], rule: value}
        config = parse(dataset={"path": "x", "sanitize": sanitize})
        assert getattr(config.dataset.sanitize, rule) == value
    for value in bad:
        sections = {"dataset": {"path": "x", "sanitize": {rule: value}}}
        found = faults(InvalidConfigError, sections)
        assert list(found) == [f"dataset.sanitize.{rule}"]
        assert f"(got {value!r})" in found[f"dataset.sanitize.{rule}"]


RULES = ("unicode", "secret", "email", "empty", "roles", "language", "duplicate", "near_leak")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("word", ["off", "'off'", "Off"])
def test_a_rule_that_is_off_in_yaml_is_off(tmp_path, rule, word):
    # YAML 1.1 reads off as false.
    (tmp_path / "c.yaml").write_text(f"dataset: {{path: x, sanitize: {{{rule}: {word}}}}}\n")
    rules = PipelineConfig.from_yaml(tmp_path / "c.yaml").dataset.sanitize
    assert getattr(rules, rule) == "off"


def test_a_rule_of_another_name_is_told_the_near_one():
    found = faults(InvalidConfigError, {"dataset": {"path": "x", "sanitize": {"emails": "flag"}}})
    assert found == {"dataset.sanitize.emails": "is not a setting (did you mean email?)"}


def test_a_format_of_another_name_is_told_which_there_are():
    found = faults(InvalidConfigError, {"dataset": {"path": "x", "format": "chatml"}})
    for each in DatasetFormat:
        assert f"'{each.value}'" in found["dataset.format"]


def test_the_rules_for_which_nobody_asked():
    rules = parse().dataset.sanitize
    assert {name: value for name, value in rules if value not in ("off", None, ())} == {
        "unicode": "change",
        "secret": "flag",
        "empty": "drop",
        "roles": "flag",
        "duplicate": "drop",
        "conflict": "flag",
        "leak": "drop",
        "near_threshold": 0.9,
        "label_imbalance": 10.0,
    }


def test_adapter_settings_as_they_are_by_default_do_not_exclude_full_finetuning():
    lora = parse().lora.model_dump()
    config = parse(training={"method": "full_finetuning"}, lora=lora)
    assert config.training.method is TrainingMethod.FULL_FINETUNING


@pytest.mark.parametrize(
    ("template", "expected"), [(None, "instruction"), ("auto", "instruction"), ("plain", "plain")]
)
def test_instructions_are_taught_in_their_own_words(tmp_path, template, expected):
    tokenization = {"template": template} if template else {}
    config = parse(training={"method": "instruction_tuning"}, tokenization=tokenization)
    assert config.tokenization.template is Template(expected)
    config.to_yaml(tmp_path / "c.yaml")
    assert PipelineConfig.from_yaml(tmp_path / "c.yaml") == config
    built = PipelineConfig(dataset={"path": "x"}, training={"method": "instruction_tuning"})
    assert built.tokenization.template is Template.INSTRUCTION
    assert parse().tokenization.template is Template.AUTO


EPSILON = 1e-9
LIMITS = [
    ("training", "epochs", [1, 10], [0, 11, 1.5]),
    (
        "training",
        "learning_rate",
        [1e-6, 1e-3, "auto"],
        [1e-6 - EPSILON, 1e-3 + EPSILON, 0, math.nan, math.inf, "Auto"],
    ),
    ("training", "batch_size", [1, 256, "auto"], [0, 257, 1.5, "max"]),
    ("lora", "lora_rank", [4, 64], [3, 65, "auto"]),
    ("lora", "lora_alpha", [8, 64], [8 - EPSILON, 64 + EPSILON]),
    ("lora", "lora_dropout", [0, 0.5], [-EPSILON, 0.5 + EPSILON, math.nan]),
    ("model", "quantization_bits", [4, 8], [3, 5, 16, None]),
    ("lora", "loraplus_lr_ratio", [1, 64, None], [1 - EPSILON, 64 + EPSILON, math.nan]),
    ("lora", "initialization", ["default"], ["olora", None]),
    ("lora", "target_modules", ["all-linear", ".*_proj", ["q_proj"]], ["", "[a", []]),
    ("training", "method", [*TrainingMethod], ["dpo", None]),
]


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [(section, field, value) for section, field, good, _ in LIMITS for value in good],
)
def test_a_value_at_the_edge_is_taken(section, field, value):
    assert getattr(getattr(parse(**{section: {field: value}}), section), field) == value


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [(section, field, value) for section, field, _, bad in LIMITS for value in bad],
)
def test_a_value_beyond_the_edge_is_refused(section, field, value):
    found = faults(InvalidConfigError, DATASET | {section: {field: value}})
    assert list(found) == [f"{section}.{field}"]
    assert f"(got {value!r})" in found[f"{section}.{field}"]


def test_the_defaults():
    config = parse()
    assert (config.training.epochs, config.training.learning_rate) == (3, "auto")
    assert config.training.batch_size == "auto"
    assert (config.lora.lora_rank, config.lora.lora_alpha) == (16, 32)
    assert config.lora.lora_dropout == 0.1
    assert config.model.quantization_bits == 8


@pytest.mark.parametrize(
    ("section", "alias", "field", "value"),
    [("training", "num_epochs", "epochs", 7), ("lora", "r", "lora_rank", 32)],
)
def test_an_alias_gives_the_same_config(section, alias, field, value):
    assert parse(**{section: {alias: value}}) == parse(**{section: {field: value}})
    assert parse(**{section: {alias: value}}) != parse()


@pytest.mark.parametrize(("section", "alias"), [("training", "num_epochs"), ("lora", "r")])
def test_an_alias_has_the_same_limits(section, alias):
    assert list(faults(InvalidConfigError, DATASET | {section: {alias: 999}})) == [
        f"{section}.{alias}"
    ]


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError):
        parse().training.epochs = 4


@pytest.mark.parametrize("value", [DATASET, FULL], ids=["least", "full"])
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_file_gives_the_equal_config_back(tmp_path, value, ending):
    config = PipelineConfig.parse(value)
    file = tmp_path / f"config.{ending}"
    getattr(config, f"to_{ending}")(file)
    assert getattr(PipelineConfig, f"from_{ending}")(file) == config
    assert PipelineConfig.parse(read_mapping(file)) == config


def test_a_config_survives_pickle():
    config = PipelineConfig.parse(FULL)
    assert pickle.loads(pickle.dumps(config)) == config


def test_text_outside_ascii_survives_the_files(tmp_path):
    config = PipelineConfig.parse(
        {"dataset": {"path": "Größe/数据.jsonl", "system_prompt": "é\n😀"}}
    )
    config.to_yaml(tmp_path / "c.yaml")
    config.to_json(tmp_path / "c.json")
    assert PipelineConfig.from_yaml(tmp_path / "c.yaml") == config
    assert PipelineConfig.from_json(tmp_path / "c.json") == config


def test_a_rate_as_people_write_it_in_yaml_is_a_number(tmp_path):
    # YAML 1.1 reads 1e-5 as text: it asks for a dot and a sign.
    (tmp_path / "c.yaml").write_text("dataset: {path: x}\ntraining: {learning_rate: 1e-5}\n")
    assert PipelineConfig.from_yaml(tmp_path / "c.yaml").training.learning_rate == 0.00001


@pytest.mark.parametrize(("ending", "text"), [("yaml", "a: [1"), ("json", '{"a": ')])
def test_a_file_that_cannot_be_parsed_is_named(tmp_path, ending, text):
    file = tmp_path / f"config.{ending}"
    file.write_text(text)
    with pytest.raises(InvalidConfigError, match="cannot be parsed") as caught:
        getattr(PipelineConfig, f"from_{ending}")(file)
    assert caught.value.source == str(file)


@pytest.mark.parametrize("text", ["", "- 1", "just text", "5"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InvalidConfigError, match="must be a mapping of sections"):
        PipelineConfig.from_yaml(tmp_path / "c.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MissingConfigError, match=r"cannot read .*nope\.yaml: No such file"):
        PipelineConfig.from_yaml(tmp_path / "nope.yaml")


def test_a_fault_in_a_file_names_the_file(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"training": {"epochs": 0}}))
    with pytest.raises(InvalidConfigError, match=r"c\.json: 2 faults"):
        PipelineConfig.from_json(tmp_path / "c.json")


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "7", "a.b"])
def test_an_alias_that_the_registry_will_refuse_is_refused_before_training(alias):
    with pytest.raises(InvalidConfigError):
        parse(registry={"alias": alias})


class TestSchema:
    """What a form or an editor can be made from."""

    SCHEMA = PipelineConfig.model_json_schema()

    def test_every_field_is_described(self):
        sections = {each["$ref"].rpartition("/")[2] for each in self.SCHEMA["properties"].values()}
        assert len(sections) == 8
        owners = [self.SCHEMA, *(self.SCHEMA["$defs"][name] for name in sections)]
        fields = [(name, field) for owner in owners for name, field in owner["properties"].items()]
        assert [name for name, field in fields if not self.describe(field)] == []

    def describe(self, field):
        """The field's own description; where it is its type's, pydantic leaves only that."""
        referred = self.SCHEMA["$defs"].get(field.get("$ref", "").rpartition("/")[2], {})
        return field.get("description") or referred.get("description")

    @pytest.mark.parametrize(
        ("section", "field", "least", "most"),
        [
            ("TrainingConfig", "epochs", 1, 10),
            ("TrainingConfig", "learning_rate", 1e-6, 1e-3),
            ("TrainingConfig", "batch_size", 1, 256),
            ("LoraConfig", "lora_rank", 4, 64),
            ("LoraConfig", "lora_alpha", 8, 64),
            ("LoraConfig", "lora_dropout", 0, 0.5),
        ],
    )
    def test_numbers_have_their_limits(self, section, field, least, most):
        described = self.SCHEMA["$defs"][section]["properties"][field]
        (number,) = [
            branch
            for branch in described.get("anyOf", [described])
            if branch["type"] in ("integer", "number")
        ]
        assert (number["minimum"], number["maximum"]) == (least, most)

    def test_a_choice_of_numbers_is_listed(self):
        fields = self.SCHEMA["$defs"]["ModelConfig"]["properties"]
        assert fields["quantization_bits"]["enum"] == [4, 8]
