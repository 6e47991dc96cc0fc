"""Configs: the sources of values, and invalid values."""

import ast
import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import probes
import pytest
import yaml

import rlscan
from rlscan.runs._build import build_policy
from rlscan.runs._config import KEYS, Config, check, from_dict, to_dict, to_yaml
from rlscan.runs._config_keys import _ELSEWHERE
from rlscan.runs._parse import parse, parse_command
from rlscan.runs._policy_config import KINDS, policy_config
from rlscan.runs._values import has_ambiguous_number

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_config_in_the_repository_loads(path: Path):
    config = parse(["--config", str(path)])
    assert config.env.name in rlscan.envs.ENVIRONMENTS
    assert str(config.output).startswith(f"runs/{path.stem}-0-")


def test_there_are_configs():
    assert {"cartpole", "acrobot", "pendulum", "breakout"} <= {path.stem for path in CONFIGS}


def test_the_defaults_train_cartpole():
    config = parse([])
    assert (config.env.name, config.policy.init_args["dropout"]) == ("CartPole-v1", 0.0)
    assert config.total_steps == 500_000


def test_values_win_over_files_and_later_ones_over_earlier_ones(tmp_path: Path):
    first = write(tmp_path / "first.yaml", "seed: 1\nppo: {gamma: 0.5, num_envs: 8}\n")
    second = write(tmp_path / "second.yaml", "seed: 2\nppo:\n  num_envs: 16\n")
    files = ["--config", first, f"--config={second}"]
    config = parse(files)
    assert (config.seed, config.ppo.gamma, config.ppo.num_envs) == (2, 0.5, 16)
    config = parse(["--seed", "9", "--seed", "0", *files, "--ppo.num_envs", "32"])
    assert (config.seed, config.ppo.gamma, config.ppo.num_envs) == (0, 0.5, 32)


def test_dashes_and_underscores_are_the_same_in_a_key_but_not_in_a_value():
    dashes = parse(["--ppo.learning-rate", "1e-3", "--total-steps=5000", "--output", "a-b"])
    underscores = parse(["--ppo.learning_rate=1e-3", "--total_steps", "5000", "--output=a-b"])
    assert dashes == underscores
    assert (dashes.ppo.learning_rate, dashes.output) == (1e-3, "a-b")


def test_numbers_of_every_spelling_in_a_file(tmp_path: Path):
    text = "ppo: {learning_rate: 3e-4, target_kl: .inf, gamma: 1, adam_eps: 1.0e-7}\n"
    ppo = parse(["--config", write(tmp_path / "a.yaml", text)]).ppo
    assert (ppo.learning_rate, ppo.target_kl, ppo.gamma, ppo.adam_eps) == (3e-4, math.inf, 1, 1e-7)


def test_numbers_of_every_spelling_on_the_command_line():
    argv = ["--ppo.learning_rate", "3e-4", "--ppo.value_clip_range", "inf", "--ppo.gamma", "1"]
    ppo = parse(argv).ppo
    assert (ppo.learning_rate, ppo.value_clip_range, ppo.gamma) == (3e-4, math.inf, 1)


def test_the_kind_of_a_policy_is_short_for_its_class():
    argv = ["lstm", "--output", "x"]
    assert parse(["--policy", *argv]) == parse(["--policy.kind", *argv])
    assert parse(["--policy", *argv]).policy.init_args["cell"] == "lstm"


def test_lists_and_mappings(tmp_path: Path):
    file = write(tmp_path / "a.yaml", "env: {params: {gravity: 3.7}}\npolicy: {hidden_sizes: []}\n")
    config = parse(["--config", file, "--env.params.length", "2e-1"])
    assert config.env.params == {"gravity": 3.7, "length": 0.2}
    assert config.policy.init_args["hidden_sizes"] == []
    assert parse(["--policy.hidden_sizes", "[3, 4]"]).policy.init_args["hidden_sizes"] == [3, 4]
    assert parse(["--policy.num_channels", "[]"]).policy.init_args["num_channels"] == []
    assert parse(["--policy.continuous", "tanh"]).policy.init_args["continuous"] == "tanh"


def test_yaml_and_dict_round_trip_a_config():
    argv = ["--ppo.target_kl", ".inf", "--ppo.learning_rate", "1e-5", "--policy.hidden_sizes=[3]"]
    argv += ["--env.params", "{gravity: 1e-3}", "--seed", "7"]
    config = dataclasses.replace(parse(argv), output=None)
    assert from_dict(yaml.safe_load(to_yaml(config))) == config
    assert from_dict(to_dict(config)) == config


def test_print_config_is_a_config(tmp_path: Path, capsys: pytest.CaptureFixture):
    argv = ["--config", str(CONFIGS[0]), "--ppo.learning-rate", "1e-3", "--policy.dropout", "0.25"]
    with pytest.raises(SystemExit) as exit:
        parse([*argv, "--print_config"])
    assert exit.value.code == 0
    printed = write(tmp_path / "printed.yaml", capsys.readouterr().out)
    again, direct = parse(["--config", printed]), parse(argv)
    assert to_dict(again) == to_dict(direct)
    assert (again.ppo.learning_rate, again.policy.init_args["dropout"]) == (1e-3, 0.25)


@pytest.mark.parametrize(
    "options",
    ["--policy.dropout 3", "--env.name foo", "--ppo.num-minibatches 7", "--seed -1", "--seed x"],
)
def test_print_config_refuses_an_invalid_config(options: str, capsys: pytest.CaptureFixture):
    with pytest.raises(ValueError) as run:
        parse(options.split())
    for argv in (["--print_config", *options.split()], [*options.split(), "--print-config"]):
        with pytest.raises(ValueError) as printed:
            parse(argv)
        assert str(printed.value) == str(run.value)
    assert capsys.readouterr().out == ""


def test_print_config_keeps_its_flags(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit:
        parse(["--print_config=skip_default", "--seed", "3"])
    assert (exit.value.code, capsys.readouterr().out) == (0, "seed: 3\n")
    with pytest.raises(ValueError, match='Invalid option "skip_all"'):
        parse(["--print_config=skip_all"])


def test_help_explains_every_key(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as exit:
        parse(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    for key in KEYS:
        # The option is followed by its docstring, not immediately by its type.
        described = text.split(f"--{key} ")[1].split(maxsplit=1)[1].lstrip()
        assert described[0].isupper(), key
    assert "--ppo CONFIG" not in text


def test_help_reads_as_english(capsys: pytest.CaptureFixture):
    """Each text is a noun phrase, an imperative or a clause with `whether`, and ends as one."""
    with pytest.raises(SystemExit):
        parse(["-h"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--resume RUN_DIR Continue a run that was stopped" in text
    assert "--dry-run {true,false} Print the size of the run" in text
    for key in KEYS:
        described = text.split(f"--{key} ")[1].split("(default:")[0].split(maxsplit=1)[1].strip()
        assert described.endswith("."), key
        assert described.split()[0] not in {"Of", "By", "Those", "That", "With", "How"}, key


# Options that are not part of a config.


def test_a_command_has_its_config_and_options():
    command = parse_command(["--seed", "3", "--ppo.learning-rate=1e-3", "--env.params.gravity=9"])
    assert (command.resume, command.dry_run) == (None, False)
    assert command.changed == {"seed", "ppo.learning_rate", "env.params.gravity"}
    assert (command.config.seed, command.config.ppo.learning_rate) == (3, 1e-3)


def test_keys_in_a_file_are_not_changed_by_the_command_line(tmp_path: Path):
    file = write(tmp_path / "a.yaml", "seed: 1\nppo.gamma: 0.5\n")
    command = parse_command(["--config", file, "--strict"])
    assert command.changed == {"strict"}
    assert (command.config.seed, command.config.ppo.gamma, command.config.strict) == (1, 0.5, True)


@pytest.mark.parametrize(
    "options, dry_run",
    [("--dry-run", True), ("--dry_run --seed 1", True), ("--dry-run=false", False), ("", False)],
)
def test_a_dry_run_is_a_switch(options: str, dry_run: bool):
    assert parse_command(options.split()).dry_run is dry_run


def test_print_config_leaves_out_other_options(capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        parse(["--dry-run", "--seed", "3", "--print_config"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert {key for key, value in printed.items() if key != "output"} == to_dict(Config()).keys()


@pytest.fixture
def stopped_run(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "update-3.ckpt").write_bytes(b"")
    write(tmp_path / "run" / "config.yaml", "seed: 5\nppo: {gamma: 0.5}\n")
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["", "checkpoints/update-3.ckpt"])
def test_a_resumed_run_has_its_own_config(name: str, stopped_run: Path):
    path = str(stopped_run / name)
    command = parse_command(["--keep-checkpoints", "7", "--resume", path, "--dry-run"])
    assert (command.resume, command.dry_run) == (path, True)
    assert command.changed == {"keep_checkpoints"}
    config = command.config
    assert (config.seed, config.ppo.gamma, config.keep_checkpoints) == (5, 0.5, 7)
    assert config.output == str(stopped_run)


@pytest.mark.parametrize(
    "options, message",
    [
        ("--seed 1", "--seed cannot be given with --resume: a run goes on as it began; "),
        ("--config a.yaml", "--config cannot be given with --resume"),
        ("--output elsewhere", "--output cannot be given with --resume"),
        ("--env.params.gravity 3", "what can be are --checkpoint_interval, --keep_checkpoints, "),
        ("--total-steps 1", "total_steps = 1 is less than one update"),
    ],
)
def test_a_resumed_run_stays_the_same_run(options: str, message: str, stopped_run: Path):
    with pytest.raises(ValueError) as error:
        parse(["--resume", str(stopped_run), *options.split()])
    assert message in str(error.value)


def test_a_run_to_resume_must_be_there(tmp_path: Path):
    with pytest.raises(ValueError, match="no run at .*; --resume takes the directory of a run"):
        parse_command(["--resume", str(tmp_path)])


def test_params_of_the_environment_override_one_by_one_in_their_order(tmp_path: Path):
    file = write(tmp_path / "a.yaml", "env: {params: {a: 1, b: [x, 2e-1], c: {d: null}}}\n")
    params = parse(["--config", file, "--env.params.a", "3", "--env.params.e=text"]).env.params
    assert params == {"a": 3, "b": ["x", 0.2], "c": {"d": None}, "e": "text"}
    argv = ["--env.params", "{a: 1}", "--env.params.a", "2", "--env.params", "{b: 3}"]
    assert parse(argv).env.params == {"b": 3}
    assert parse([*argv, "--env.params.a", "2"]).env.params == {"a": 2, "b": 3}


BAD_OPTIONS = {
    "--ppo.learning-rat 1e-3": "unknown option --ppo.learning_rat, did you mean ppo.learning_rate",
    "--learning_rate 1e-3": "unknown option --learning_rate, did you mean ppo.learning_rate",
    "--total 5": "did you mean total_steps?",
    "--ppo.lr 1e-3": "unknown option --ppo.lr, did you mean ppo.learning_rate?",
    "--env-id CartPole-v1": "unknown option --env_id, did you mean env.name?",
    "--xyzzy 5": "unknown option --xyzzy; --help lists all",
    "--ppo 3": "unknown option --ppo; set its keys one by one, such as ppo.num_envs",
    "--ppo.gamma null": "ppo.gamma must be a number, such as 3e-4, got null",
    "--dry-run maybe": "dry_run must be true or false, got maybe",
    "--resume": "--resume needs a value: a run directory",
    "--strict extra": "strict must be true or false, got extra",
    "--seed 1 extra": "'extra' follows no option",
    "extra": "'extra' follows no option; write --KEY VALUE, such as --seed 1",
    "--seed": "--seed needs a value: an integer",
    "--seed x": "seed must be an integer",
    "--seed -1": "seed must be from 0 to 4294967295, got -1",
    "--total-steps 5e5": "total_steps must be an integer, written without point or exponent, got 5",
    "--ppo.num_envs 2.5": "ppo.num_envs must be an integer, written without point or exponent",
    "--ppo.learning_rate fast": "ppo.learning_rate must be a number, such as 3e-4, got fast",
    "--ppo.learning_rate inf": "ppo.learning_rate must be 0 or more, and finite, got inf",
    "--ppo.learning_rate 1e300": "ppo.learning_rate must be a number of float32, from 1.2e-38 to",
    "--ppo.adam_eps 1e-60": "ppo.adam_eps must be a number of float32, from 1.2e-38 to 3.4e+38 in",
    "--ppo.max_grad_norm x": "ppo.max_grad_norm must be a number, such as 3e-4 or .inf, got x",
    "--ppo.key_schedule foo": "ppo.key_schedule must be one of step, episode, rollout, got foo",
    "--ppo.shared_noise 2": "ppo.shared_noise must be true or false, got 2",
    "--ppo.target_kl -inf": "ppo.target_kl must be above 0, got -inf",
    "--ppo.gamma true": "ppo.gamma must be a number",
    "--ppo.gamma .nan": "ppo.gamma must be in [0, 1], got nan",
    "--ppo.anneal_learning_rate 2": "ppo.anneal_learning_rate must be true or false, got 2",
    "--policy.hidden_sizes 3": "policy.hidden_sizes must be a list of integers, such as [64, 64]",
    "--policy.hidden_sizes [3,x]": "policy.hidden_sizes must be a list of integers",
    "--env.params 3": "env.params must be a mapping, such as {gravity: 9.8}, got 3",
    "--env.name cartpole": "env.name: unknown environment 'cartpole', did you mean CartPole-v1?",
    "--policy.hidden_sizes [64,0]": "policy.hidden_sizes must be positive integers, got [64, 0]",
    "--policy.num_channels [16,0]": "policy.num_channels must be positive integers, got [16, 0]",
    "--policy.num_channels 16": "policy.num_channels must be a list of integers, such as [64, 64]",
    "--policy.continuous normal": "policy.continuous must be one of gaussian, tanh, beta, got nor",
    "--policy.continuous beta --policy.state_dependent_std true": "policy.state_dependent_std app",
    "--policy.dropout 1": "policy.dropout must be in [0, 1), got 1.0",
    "--policy.critic_dropout -0.1": "policy.critic_dropout must be in [0, 1), got -0.1",
    "--policy.dropout_end 1": "policy.dropout_end must be in [0, 1), got 1",
    "--policy.dropout_end .nan": "policy.dropout_end must be in [0, 1), got nan",
    "--policy.dropout_end low": "policy.dropout_end must be a number, such as 3e-4, got low",
    "--policy.activation tahn": "policy.activation must be a function that keeps the shape",
    "--ppo.num_envs 0": "ppo.num_envs must be a positive integer, got 0",
    "--ppo.num_minibatches 3": "= 512 is not divisible by num_minibatches = 3; use 1, 2 or 4",
    "--ppo.gae_lambda 1.1": "ppo.gae_lambda must be in [0, 1], got 1.1",
    "--total_steps 511": "total_steps = 511 is less than one update",
    "--total_steps 0": "total_steps must be a positive integer, got 0",
    "--ppo.num_envs 3000000000": "ppo.num_envs * num_steps must be at most 2147483647, got 38400",
    "--total_steps 999999999999999": "makes 31249999999984 gradient steps, which are counted up to",
    "--log_interval 0": "log_interval must be a positive integer, got 0",
    "--output=": "output must name a directory",
    "--config": "--config needs a value: a YAML file",
    "--config configs/cartpol.yaml": "no config file configs/cartpol.yaml, did you mean configs/ca",
    "--num-seeds 12:30:45": "num_seeds must be an integer, written without point or exponent, got",
    "--policy.hidden_sizes [64,12:30]": "policy.hidden_sizes must be a list of integers",
    "--ppo.gamma 0:0.5": "ppo.gamma must be a number, such as 3e-4, got 0:0.5",
    "--seed 017": "seed must be an integer, written without point or exponent, got 017",
    "--env.params {gravity:12:30}": "env.params must be a mapping, such as {gravity: 9.8}, got",
    "--env.params.gravity 12:30": "env.params.gravity must be a value as YAML writes it, with text",
    "--num-seeds 2147483648": "num_seeds must be at most 2147483647, got 2147483648",
    "--num-seeds 2147483647": "must make at most 16384 runs side by side, got 2147483647; use fewe",
    "--num-samples 2147483647 --sweep ppo.gamma=0.9..1": "must make at most 16384 runs side by sid",
    "--env.frame-stack 1000000": "env.frame_stack must be at most 1000, got 1000000",
    "--policy.num-layers 1001 --policy.kind transformer": "policy.num_layers must be at most 1000",
    "--eval-episodes 100000000000000000000000": "eval_episodes must be at most 2147483647, got 100",
    "--policy.hidden-sizes [2147483648]": "policy.hidden_sizes must be at most 2147483647, got 21",
    "--ppo.num-envs 2147483647 --ppo.num-steps 1": "is not divisible by num_minibatches = 4; use 1",
    "--config configs": "cannot read the config file configs: Is a directory",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_a_bad_option_is_refused_in_one_line(options: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ValueError) as error:
        parse(options.split())
    assert BAD_OPTIONS[options] in str(error.value)
    assert "\n" not in str(error.value)


def _laughs(depth: int) -> str:
    """A YAML list whose aliases stand for ten to the power of `depth` values."""
    lists = [f"&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return f"[&a0 [0, 0, 0, 0, 0, 0, 0, 0, 0, 0], {', '.join(lists)}]"


BAD_FILES = {
    "env: {params: &a {x: *a}}\n": "bad.yaml: not valid YAML, values are nested too deeply, or al",
    "env: {params: {x: &a [*a]}}\n": "bad.yaml: not valid YAML, values are nested too deeply",
    f"env: {{params: {{x: {_laughs(9)}}}}}\n": "bad.yaml: not valid YAML, values are nested too de",
    "[" * 100_000: "bad.yaml: not valid YAML, values are nested too deeply",
    "{a: " * 50 + "}" * 50: "bad.yaml: not valid YAML, values are nested too deeply",
    "": "bad.yaml is empty; a config is a mapping, such as `seed: 0`",
    "# only a comment\n": "bad.yaml is empty",
    "- seed\n": "bad.yaml:1: a config is a mapping, such as `seed: …`, got a list",
    "seed 3\n": "bad.yaml:1: a config is a mapping, such as `seed: …`, got seed 3",
    "seed: 0\nppo:\n": "bad.yaml:2: ppo must be a mapping, such as `num_envs: …`, got nothing",
    "ppo: 3\n": "bad.yaml:1: ppo must be a mapping, such as `num_envs: …`, got 3",
    "ppo:\n  gamma: 0.9\n  gae: 1\n": "bad.yaml:3: unknown key ppo.gae, did you mean ppo.ga",
    "sedd: 1\n": "bad.yaml:1: unknown key sedd, did you mean seed?",
    "config: a.yaml\n": "bad.yaml:1: unknown key config",
    "seed: 1\nseed: 2\n": "bad.yaml:2: seed is given twice; keep one",
    "ppo: {gamma: 1}\nppo: {num_envs: 2}\n": "bad.yaml:2: ppo is given twice; keep one",
    "seed: 1\nppo: [\n": "bad.yaml:3: not valid YAML",
    "seed: 1\n\tppo: 3\n": "bad.yaml:2: not valid YAML",
    "seed: \x07\n": "bad.yaml: not valid YAML",
    "ppo: {num_envs: many}\n": "bad.yaml:1: ppo.num_envs must be an integer",
    "ppo: {num_envs: 4.0}\n": "bad.yaml:1: ppo.num_envs must be an integer",
    "seed: true\n": "bad.yaml:1: seed must be an integer",
    "seed: null\n": "bad.yaml:1: seed must be an integer",
    "seed: 1\nppo:\n  gamma:\n": "bad.yaml:3: ppo.gamma must be a number",
    "env: {name: [a]}\n": "bad.yaml:1: env.name must be text, got [a]",
    "policy: {hidden_sizes: [64, wide]}\n": "bad.yaml:1: policy.hidden_sizes must be a list of",
    "ppo: {key_schedule: often}\n": "bad.yaml:1: ppo.key_schedule must be one of step, episode, ro",
    "ppo: {key_schedule: }\n": "bad.yaml:1: ppo.key_schedule must be one of step, episode, rollout",
    "env: &a {name: x}\nppo:\n  <<: *a\n": "bad.yaml:3: a key must be a name, such as seed, got <<",
    "[seed]: 1\n": "bad.yaml:1: a key must be a name, such as seed, got a list",
    "env:\n  params: {{a: 1}: 1}\n": "bad.yaml:2: a key must be a name, such as seed, got a map",
    "env: {params: {3: 1}}\n": "bad.yaml:1: a key must be a name, such as seed, got 3",
    "env: {params: {g: 1, g: 2}}\n": "bad.yaml:1: env.params.g is given twice; keep one",
    "seed: 1\nenv:\n  params:\n    a: [{[b]: 1}]\n": "bad.yaml:4: a key must be a name, such as",
    "output: !env HOME\n": "bad.yaml:1: a value takes no tag, got !env; leave it out",
    "policy: {dropout: '10 %'}\n": "bad.yaml:1: policy.dropout must be a number, such as 3e-4",
}


@pytest.mark.parametrize("value", ["&a {x: *a}", "{x: &a [*a]}", f"{{x: {_laughs(9)}}}"])
def test_parameters_without_end_are_refused(value: str):
    with pytest.raises(ValueError, match="env.params must be a mapping, such as .*, got"):
        parse(["--env.params", value])


@pytest.mark.parametrize("text", ["1e-05", "[6, 64]", "0.05", "-1", "1_000", "2.50"])
def test_only_numbers_that_yaml_reads_as_others_are_ambiguous(text: str):
    assert not has_ambiguous_number(float, text)


@pytest.mark.parametrize("text", BAD_FILES, ids=lambda text: text[:40])
def test_a_bad_file_is_refused_in_one_line(text: str, tmp_path: Path):
    with pytest.raises(ValueError) as error:
        parse(["--config", write(tmp_path / "bad.yaml", text)])
    assert BAD_FILES[text] in str(error.value)
    assert "\n" not in str(error.value)


def test_a_binary_file_is_refused(tmp_path: Path):
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="it is not text"):
        parse(["--config", str(tmp_path / "bad.yaml")])


def test_a_value_that_may_be_missing(tmp_path: Path):
    file = write(tmp_path / "a.yaml", "policy: {dropout_end: 0.2}\n")
    assert parse(["--config", file]).policy.dropout_end == 0.2
    again = parse(["--config", file, "--policy.dropout-end", "null"])
    assert again.policy.dropout_end is None
    assert parse([]).policy.dropout_end is None


def test_a_config_made_in_python_is_checked_too():
    with pytest.raises(ValueError, match="total_steps"):
        check(Config(total_steps=1))


# A policy only has the settings of its kind.


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("mlp", {"hidden_size": 32, "recurrent_dropout": 0.5, "context_length": 8, "gated": True}),
        ("gru", {"shared_masks": True, "num_layers": 3, "num_heads": 2, "embed_size": 8}),
        ("lstm", {"attention_dropout": 0.0}),
        ("transformer", {"hidden_sizes": (8,), "critic_dropout": 0.1, "hidden_size": 8}),
    ],
)
def test_a_setting_of_another_kind_is_refused(kind: Any, settings: dict[str, Any]):
    for name, value in settings.items():
        policy = policy_config(kind=kind, **{name: value})
        takers = f"policy.{name} is no argument of rlscan.policies.[A-Za-z]*"
        with pytest.raises(ValueError, match=takers):
            check(Config(policy=policy))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_built_as_described(kind: Any):
    sizes: dict[str, Any] = {
        "mlp": {"hidden_sizes": (3,)},
        "transformer": {"context_length": 5, "num_layers": 1, "num_heads": 2, "embed_size": 6},
    }
    settings = sizes.get(kind, {"hidden_sizes": (3,), "hidden_size": 7})
    config = Config(policy=policy_config(kind=kind, dropout_end=0.0, **settings))
    check(config)
    policy: Any = build_policy(config, probes.Wander(), key=rlscan.key(0))
    shapes = {x.shape for x in jax.tree.leaves(policy.initial_state())}
    if kind == "transformer":
        assert shapes == {(), (5, 2, 3)} and len(policy.blocks) == 1
    else:
        assert policy.actor.layers[0].out_features == 3
        assert shapes == (set() if kind == "mlp" else {(7,)})


def test_minibatches_of_a_recurrent_policy_divide_the_environments():
    ppo = rlscan.ppo.PPOConfig(num_envs=4, num_steps=128, num_minibatches=8)
    check(Config(ppo=ppo))
    with pytest.raises(ValueError, match=r"ppo.num_envs \(the policy is recurrent\) = 4 is not"):
        check(Config(ppo=ppo, policy=policy_config(kind="gru")))


# A setting that nothing reads would mislead its user.


def read_keys(sources: Iterable[str]) -> set[str]:
    """List the keys of `Config` that functions read, other than to check them."""
    prefixes = {"Config": "", "EnvConfig": "env.", "PolicyConfig": "policy.", "PPOConfig": "ppo."}
    found = set()
    for source in sources:
        for function in ast.walk(ast.parse(source)):
            if not isinstance(function, ast.FunctionDef) or function.name.startswith("check"):
                continue
            owners = {"self._config": ""}
            for argument in [*function.args.args, *function.args.kwonlyargs]:
                annotation = getattr(argument.annotation, "id", None)
                if annotation in prefixes:
                    owners[argument.arg] = prefixes[annotation]
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute):
                    path = ast.unparse(node)
                    for owner, prefix in owners.items():
                        if path.startswith(f"{owner}."):
                            found.add(prefix + path.removeprefix(f"{owner}."))
    return found


def test_every_config_value_is_read():
    modules = (REPOSITORY / "rlscan").rglob("*.py")
    sources = [m.read_text() for m in modules if m.name != "_config.py"]
    read = read_keys(sources)
    assert set(KEYS) - read == set()
    assert "ppo.planted" not in read and "planted" not in read


def test_a_value_that_is_only_checked_does_not_count_as_read():
    source = "def check_all(config: PPOConfig): config.gamma\ndef f(c: PPOConfig): c.clip_range\n"
    assert read_keys([source]) == {"ppo.clip_range"}


def test_names_of_other_libraries_lead_to_keys():
    assert set(_ELSEWHERE.values()) <= set(KEYS)
    assert not set(_ELSEWHERE) & {key.rpartition(".")[2] for key in KEYS}
