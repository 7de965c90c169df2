"""One page, `report.html`, from what a run folder holds. Nothing in it is fetched from a network."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from operant.core.errors import InputError
from operant.core.statistics import Estimate
from operant.experiment import drawings, plots, regret, returns
from operant.experiment.findings import STAGES, Findings, estimates, place, read_run, within
from operant.experiment.plots import KINDS, METRICS, Curve, duration, estimate, number

HEADLINES = {"wrong": "Wrong, stated as fact", "unknown": "“I do not know”", "true_reward": "True reward"}
"""Figures that lead the page where they were measured; elsewhere the first three that there are."""

JUDGEMENTS = {"win_rate", "win_rates", "reward_model_accuracy", "judge_accuracy", "labeller_agreement"}
SHARES = {*KINDS, *JUDGEMENTS, "within_style", "noise_free"}
"""Figures, and groups of them, that are shown as a percentage."""

AMOUNTS = {"reward_per_step", "regret", "true_reward"}
"""Figures that are no shares, even where all of them lie from 0 to 1."""

NO_CURVES = {"time/seconds", returns.STEPS, *drawings.DRAWN, *regret.DRAWN}
"""Metrics that have no panel among the learning curves: the clock, and what a section of its own draws."""

KIND_COLOURS = {f"k-{kind}": words for kind, words in KINDS.items()}


def write_report(folders: list[Path], out: Path) -> None:
    """Write one self-contained HTML page about a run, an alignment, or several of them side by side.

    What a folder lacks is left out. Raises InputError where it holds no run, or a file is not what its name says.
    """
    if not folders:
        raise InputError("a report needs at least one run folder and none was given; name one, such as runs/demo")
    names = [folder.resolve().name for folder in folders]
    page = _page([read_run(f, str(f) if names.count(n) > 1 else n) for f, n in zip(folders, names, strict=True)])
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the report cannot be written to {out}: {error}; give a file name that can be written"
        ) from error


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Estimate]:
    """Every figure in nested objects, named by its path."""
    found: dict[str, Estimate] = {}
    for key, inner in value.items():
        if (figure := estimate(inner)) is not None:
            found[prefix + key] = figure
        elif isinstance(inner, dict):
            found |= _flat(inner, f"{prefix}{key} / ")
    return found


def _shares(value: Any) -> dict[str, float]:
    figures = estimates(value) if isinstance(value, dict) else {}
    return {kind: figures[kind].mean for kind in KINDS if kind in figures}


def _level(exposure: str) -> float:
    return float(exposure) if exposure.isdigit() else math.inf


def _exposure(level: str) -> str:
    return {"0": "never seen", "1": "seen once"}.get(level, f"seen {level}×" if level.isdigit() else level)


def _floor(figures: dict[str, Estimate]) -> float:
    return 0.4 if min(value.low for value in figures.values()) >= 0.4 else 0.0


def _measured(run: Findings) -> str:
    """On what the figures were measured, as far as the summary says."""
    questions, temperature = run.summary.get("questions"), run.summary.get("temperature")
    facts = [f"{questions} questions"] * (questions is not None)
    facts += [f"answers sampled at temperature {temperature}"] * (temperature is not None)
    return f" {', '.join(facts).capitalize()}." if facts else ""


def _title(stage: str) -> str:
    words = stage.replace("_", " ")
    return STAGES[stage][0] if stage in STAGES else words[:1].upper() + words[1:]


def _signed(x: float) -> str:
    return f"{x:+.2f}".replace("-", "−")


def _number(key: str, x: float) -> str:
    return number(x, percent=not SHARES.isdisjoint(key.split(" / ")))


def _shown(key: str, value: Estimate) -> str:
    interval = f"<small>{_number(key, value.low)} to {_number(key, value.high)}</small>"
    return f"<b>{_number(key, value.mean)}</b>" + (interval if value.high > value.low else "")


def _page(runs: Sequence[Findings]) -> str:
    title = str(runs[0].summary.get("title") or runs[0].name) if len(runs) == 1 else f"{len(runs)} runs side by side"
    sections = [
        ("side-by-side", "Side by side", _side_by_side(runs)),
        ("summary", "Summary", _each(runs, _headline)),
        ("return", "Return", returns.section(runs)),
        ("solution", "Solution", _each(runs, drawings.section)),
        ("regret", "Regret", _each(runs, regret.section)),
        ("outcome", "Outcome", _each(runs, _outcome)),
        ("exposure", "By exposure", _each(runs, _exposures)),
        ("reward-and-kl", "Reward and KL", _each(runs, _reward_and_kl)),
        ("reward-model", "Reward model", _each(runs, _reward_model)),
        ("curves", "Learning curves", _learning_curves(_parts(runs))),
        ("samples", "Samples", _each(runs, _samples)),
        ("figures", "All figures", _each(runs, _tables)),
        ("settings", "Settings and time", _each(runs, _settings)),
    ]
    sections = [section for section in sections if section[2]]
    menu = "".join(f'<a href="#{name}">{words}</a>' for name, words, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{words}</h2>{content}</section>' for name, words, content in sections)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{plots.STYLE}</style></head>\n<body><header><p>Operant report</p>"
        f"<h1>{escape(title)}</h1></header><nav>{menu}</nav>\n<main>{body}</main></body></html>\n"
    )


def _parts(runs: Sequence[Findings]) -> list[Findings]:
    """The runs; in place of one of several seeds those of its seeds, by both names where there are several runs."""
    if len(runs) == 1:
        return runs[0].seeds or list(runs)
    named = [[dataclasses.replace(seed, name=f"{run.name}, {seed.name}") for seed in run.seeds] for run in runs]
    return [part for run, seeds in zip(runs, named, strict=True) for part in seeds or [run]]


def _each(runs: Sequence[Findings], section: Callable[[Findings], str]) -> str:
    """The section of every run, under the name of the run where there are several."""
    parts = [(run.name, section(run)) for run in runs]
    heading = '<h3 class="run">{}</h3>' if len(runs) > 1 else ""
    return "".join(heading.format(escape(name)) + part for name, part in parts if part)


def _grid(parts: Sequence[str], kind: str = "") -> str:
    return f'<div class="grid {kind}">{"".join(parts)}</div>' if parts else ""


def _legend(colours: Mapping[str, str]) -> str:
    """What colours mean: CSS class to words."""
    keys = "".join(f'<span><i class="{colour}"></i>{escape(words)}</span>' for colour, words in colours.items())
    return f'<div class="legend">{keys}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of ready markup; the first cell of a row is its heading."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr><th>{row[0]}</th>{''.join(f'<td>{cell}</td>' for cell in row[1:])}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _headline(run: Findings) -> str:
    if returns.is_trained(run):
        return ""
    seconds = _seconds(run)
    trained = {stage.name: stage.metrics for stage in run.stages or [run]}
    rows = []
    for name in sorted({*trained} | ({*run.results} - {"pretrained"}), key=place):
        last = max((curve.x[-1] for curve in trained.get(name, {}).values()), default=0)
        facts = [f"{number(last)} steps"] if last > 0 else []
        facts += [duration(seconds[name])] if name in seconds else []
        rows.append([f"{escape(_title(name))}<small>{', '.join(facts)}</small>", STAGES.get(name, ("", ""))[1]])
    done = f'<div class="card">{_table(["Stage", "What was done"], rows)}</div>' if rows else ""
    notes = run.summary.get("notes")
    notes = [f'<p class="note">{escape(str(note))}</p>' for note in notes] if isinstance(notes, list) else []
    return _grid(_tiles(run), "tiles") + done + "".join(notes)


def _tiles(run: Findings) -> list[str]:
    """The main figures, each with a sentence that says what it means."""
    trained = {name: estimates(value) for name, value in run.results.items() if name not in ("pretrained", "prompted")}
    if not trained:
        return [_tile(_title(name), {"": value}, "", name) for name, value in _flat(run.summary).items()][:6]
    base, *later = trained
    first = [key for key in HEADLINES if key in trained[base]] or [key for key in trained[base] if key != "kl"][:3]
    tiles = []
    for key in first:
        flow = {name: value[key] for name, value in trained.items() if key in value}
        changes = [_change(key, _title(name), flow[base], flow[name]) for name in later if name in flow]
        reading = f"Against {_title(base)}: {'; '.join(changes)}." if changes else ""
        tiles.append(_tile(HEADLINES.get(key, _title(key)), flow, reading, key))
    wins = {name: value for name, value in estimates(within(run.summary, "win_rates")).items() if name in trained}
    if wins:
        words = ("no clear difference", "clearly better", "clearly worse")
        verdicts = [f"{_title(name)} {words[(rate.low > 0.5) - (rate.high < 0.5)]}" for name, rate in wins.items()]
        tiles.append(
            _tile("Preferred to SFT’s answer", wins, f"50% is a draw: {'; '.join(verdicts)}.{_judge(run)}", "win_rate")
        )
    return tiles


def _judge(run: Findings) -> str:
    """How far the judge of the win rates can be trusted, where that was measured."""
    accuracy = estimate(run.summary.get("judge_accuracy"))
    if accuracy is None:
        return ""
    shown = f" The judge orders {number(accuracy.mean, True)} of the judgements rightly that it did not learn from"
    return shown + (", which is no better than chance: its verdicts mean little." if accuracy.low <= 0.5 else ".")


def _tile(name: str, flow: dict[str, Estimate], reading: str, key: str) -> str:
    values = [f"<span>{escape(_title(stage))}<b>{_number(key, x.mean)}</b></span>" for stage, x in flow.items()]
    colour = f'<i class="k-{key}"></i>' if key in KINDS else ""
    words = f'<p class="name">{colour}{escape(name)}</p><p class="flow">{"".join(values)}</p>'
    return f'<div>{words}<p class="note">{escape(reading)}</p></div>'


def _change(key: str, name: str, before: Estimate, after: Estimate) -> str:
    if after.low <= before.high and before.low <= after.high:
        return f"{name} no clear change (the intervals overlap)"
    if key not in SHARES or before.mean <= 0:
        return f"{name} {_signed(after.mean - before.mean)}"
    ratio = after.mean / before.mean
    return f"{name} {1 - ratio:.0%} less often" if ratio < 1 else f"{name} {ratio:.1f} times as often"


def _side_by_side(runs: Sequence[Findings]) -> str:
    """The figures that all runs have: the leading ones, or all where none of those was measured."""
    flat = [_flat(run.summary) for run in runs]
    shared = [key.split(" / ") for key in flat[0] if all(key in other for other in flat)]
    leading = [path for path in shared if path[0] == "win_rates" or (len(path) == 3 and path[2] in HEADLINES)]
    rows = []
    for path in leading or shared:
        key = " / ".join(path)
        words = escape(", ".join(_title(part) for part in path if part != "stages"))
        rows.append([words, *(_shown(key, figures[key]) for figures in flat)])
    table = _table(["", *(escape(run.name) for run in runs)], rows)
    caption = "Bold: mean. Small: 95% interval; figures whose intervals overlap do not clearly differ."
    return plots.figure("Final figures that all runs have", caption, table) if rows and len(runs) > 1 else ""


def _outcome(run: Findings) -> str:
    """Win rates against SFT, and what kinds of answer each stage gives."""
    parts = []
    rates = estimates(within(run.summary, "win_rates"))
    if rates:
        rates.setdefault("sft", Estimate(0.5, 0.5, 0.5))
        rows = [(_title(name), rates[name]) for name in sorted(rates, key=place)]
        title = "How often each model’s answer is preferred to SFT’s"
        caption = (
            "Dot: win rate, ties count half; line: 95% interval. Blue: clearly better than SFT; orange: clearly worse; "
            f"grey: undecided. SFT against itself is 50%.{_measured(run)}{_judge(run)}"
        )
        parts.append(plots.figure(title, caption, plots.interval_chart(rows, title, {"SFT": 0.5})))
    shares = [(_title(name), share, "") for name, value in run.results.items() if (share := _shares(value))]
    if shares:
        title = "Kinds of answer, stage by stage"
        caption = f"Each bar is all answers of a stage, best on the left.{_measured(run)}"
        parts.append(plots.figure(title, caption, _legend(KIND_COLOURS) + plots.stacked_bars(shares, title)))
    return _grid(parts or _measures(run))


def _exposures(run: Findings) -> str:
    """What kinds of answer each stage gives, by how often the corpus told the fact."""
    parts = []
    for name, result in run.results.items():
        levels = within(result, "by_exposure")
        rows = []
        for level in sorted(levels, key=_level):
            reward = estimates(levels[level]).get("true_reward") if isinstance(levels[level], dict) else None
            rows.append((_exposure(level), _shares(levels[level]), _signed(reward.mean) if reward else ""))
        if any(row[1] for row in rows):
            title = f"{_title(name)}: answers by exposure"
            caption = "Ideal: grey where never seen, blue where often seen. Right: mean true reward."
            parts.append(plots.figure(title, caption, plots.stacked_bars(rows, title, "reward")))
    note = '<p class="note">Exposure is how often the corpus told the fact that a question asks for.</p>'
    return note + _legend(KIND_COLOURS) + _grid(parts) if parts else ""


def _measures(run: Findings) -> list[str]:
    """For data without kinds of answer: every figure whose values lie from 0 to 1, stage by stage."""
    figures = {name: estimates(value) for name, value in run.results.items()}
    base = "sft" if "sft" in figures else next(iter(figures), "")
    parts = []
    for key in figures.get(base, {}):
        rows = [(_title(name), value[key]) for name, value in figures.items() if key in value]
        if all(value.low >= 0 and value.high <= 1 for _, value in rows):
            title = f"{key.replace('_', ' ').capitalize()}, stage by stage"
            caption = f"Dot: mean; line: interval. Blue is clearly above {_title(base)}, orange below.{_measured(run)}"
            lines = {_title(base): figures[base][key].mean}
            chart = plots.interval_chart(rows, title, lines, percent=key not in AMOUNTS)
            parts.append(plots.figure(title, caption, chart))
    return parts


def _reward_and_kl(run: Findings) -> str:
    """True and learned reward against the distance from the reference, along training."""
    parts = []
    for stage in [run, *run.stages]:
        names = [name for name in ("objective/true_reward", "objective/score") if name in stage.metrics]
        if "objective/kl" not in stage.metrics or not names:
            continue
        kl, *rewards = plots.joined([stage.metrics[name] for name in ("objective/kl", *names)])
        if len(kl.x) < 2:
            continue
        split = plots.parting(rewards[0].y, rewards[1].y) if len(rewards) == 2 else None
        marker = float(plots.smooth(kl.y)[split[0]]) if split else None
        reading = "Dots: training steps; line: their running mean, in the order of training."
        if split:
            reading += (
                f" Dashed: the true reward peaks at KL {number(marker or 0)} (step {number(kl.x[split[0]])}), then "
                f"loses {number(split[1])} while the learned one gains {number(split[2])}: it is being gamed."
            )
        elif len(rewards) == 2:
            reading += " The two do not clearly part: no sign that the learned reward is being gamed."
        charts = []
        for name, reward in zip(names, rewards, strict=True):
            curve = Curve(kl.y, reward.y)
            chart = plots.line_chart([curve], name, "KL from the reference, nats", True, marker, width=420)
            charts.append(f"<div><h4>{METRICS[name][0]}</h4>{chart}</div>")
        title = f"{_title(stage.name)}: what distance from the reference buys"
        parts.append(plots.figure(title, reading, _grid(charts, "pair")))
    return "".join(parts)


def _reward_model(run: Findings) -> str:
    accuracy, agreement = run.summary.get("reward_model_accuracy"), estimate(run.summary.get("labeller_agreement"))
    figures = estimates(accuracy) if isinstance(accuracy, dict) else estimates({"held out": accuracy})
    lines = {"chance": 0.5} | ({"labellers": agreement.mean} if agreement else {})
    parts = []
    if figures:
        title = "Reward model: how often it orders two answers rightly"
        readings = {
            "noise_free": "Noise free: by the true order.",
            "within_style": "Within style: right against wrong in like words, the hard part.",
            "held_out_labels": "Held-out labels: judgements that it did not learn from.",
        }
        caption = " ".join(words for name, words in readings.items() if name in figures)
        if agreement:
            caption += f" Second line: labellers’ agreement, {number(agreement.mean, True)}."
        rows = [(name.replace("_", " "), value) for name, value in figures.items()]
        parts.append(plots.figure(title, caption, plots.interval_chart(rows, title, lines, _floor(figures))))
    exposures = estimates(within(accuracy, "by_exposure"))
    if exposures:
        title = "Reward model: accuracy by exposure"
        caption = "Near the line of chance it cannot tell right from wrong, whatever its overall accuracy says."
        rows = [(_exposure(level), exposures[level]) for level in sorted(exposures, key=_level)]
        parts.append(
            plots.figure(title, caption, plots.interval_chart(rows, title, {"chance": 0.5}, _floor(exposures)))
        )
    return _grid(parts)


def _learning_curves(runs: Sequence[Findings]) -> str:
    """Every metric of every stage; runs that share one are drawn over each other, each in its own colour."""
    stages: dict[str, list[dict[str, Curve]]] = {}
    for i, run in enumerate(runs):
        for stage in [run, *run.stages]:
            if metrics := {name: x for name, x in stage.metrics.items() if name not in NO_CURVES}:
                stages.setdefault("" if stage is run else stage.name, [{} for _ in runs])[i] = metrics
    several = len(runs) > 1
    html = _legend({f"f{i % plots.COLOURS}": run.name for i, run in enumerate(runs)}) if several else ""
    reading = "Line: running mean." if several else "Line: running mean, with its last value; pale: as measured."
    html += f'<p class="note">Across: training steps. {reading}</p>'
    for stage in sorted(stages, key=place):
        names = {name for metrics in stages[stage] for name in metrics}
        names = sorted(names, key=lambda name: (name.startswith("time/"), [*METRICS, name].index(name), name))
        panels = [_panel(name, [metrics.get(name) for metrics in stages[stage]]) for name in names]
        more = f"<details><summary>{len(panels[6:])} more curves</summary>{_grid(panels[6:], 'small')}</details>"
        heading = f'<h3 class="run">{escape(_title(stage))}</h3>' if stage else ""
        html += heading + _grid(panels[:6], "small") + more * (len(panels) > 6)
    return html if stages else ""


def _panel(name: str, curves: Sequence[Curve | None]) -> str:
    group, _, last = name.rpartition("/")
    title, reading = METRICS.get(name, (_title(last) + " loss" * (group == "loss"), ""))
    return plots.figure(title, f"{name}: {reading}" if reading else name, plots.line_chart(curves, name))


def _samples(run: Findings) -> str:
    """What the stages said to the same prompts: those that most stages answered, in the order of the files."""
    answers: dict[str, dict[str, list[str]]] = {}
    for stage in [run, *run.stages]:
        for sample in stage.samples:
            said = answers.setdefault(str(sample.get("prompt", "")), {})
            said.setdefault(str(sample.get("stage", stage.name)), []).append(_answer(sample))
    stages = sorted({stage for said in answers.values() for stage in said}, key=place)
    rows = []
    for prompt in sorted(answers, key=lambda prompt: -len(answers[prompt]))[:40]:
        said = [(escape(_title(stage)), "".join(answers[prompt].get(stage, [])[-2:])) for stage in stages]
        cells = "".join(f'<td data-stage="{stage}">{words}</td>' for stage, words in said)
        rows.append(f'<tr><th class="words">{escape(prompt)}</th>{cells}</tr>')
    head = "".join(f"<th>{escape(_title(stage))}</th>" for stage in stages)
    table = f'<div class="scroll"><table class="samples"><thead><tr><th>Prompt</th>{head}</tr></thead><tbody>'
    first, rest = (f"{table}{''.join(part)}</tbody></table></div>" for part in (rows[:10], rows[10:]))
    more = f"<details><summary>{len(rows[10:])} more prompts</summary>{rest}</details>" if rows[10:] else ""
    caption = (
        f"Prompts in the order of the files, none chosen: {len(rows)} of {len(answers)}. Below an answer: its rewards."
    )
    return plots.figure("The same prompts, answered by every stage", caption, first) + more if rows else ""


def _answer(sample: dict[str, Any]) -> str:
    kind = str(sample.get("kind", ""))
    style = f"chip k-{kind}" if kind in KINDS else "chip"
    chip = f'<span class="{style}">{escape(KINDS.get(kind, kind))}</span>' if kind else ""
    facts = {"true_reward": "true", "score": "learned"}
    figures = [f"{words} {number(value.mean)}" for key, words in facts.items() if (value := estimate(sample.get(key)))]
    words = escape(str(sample.get("response", "")).strip()[:1000]) or "(nothing)"
    return f'<div class="words">{words}</div>{chip}<span class="meta">{", ".join(figures)}</span>'


def _tables(run: Findings) -> str:
    rates = within(run.summary, "win_rates")
    names = sorted({*run.results, *rates}, key=place)
    sampled = {name: within(run.results, name) | {"win_rate": rates.get(name)} for name in names}
    greedy = {name: within(result, "greedy") for name, result in run.results.items()}
    judge = {"labeller_agreement": run.summary.get("labeller_agreement")} | within(run.summary, "reward_model_accuracy")
    parts = [
        _results(f"Answers sampled at temperature {run.summary.get('temperature', 'as set')}", sampled),
        _results("Greedy answers: always the likeliest token", greedy),
        _results("Reward model", {"reward": judge}),
    ]
    for name, result in run.results.items():
        levels = within(result, "by_exposure")
        rows = {_exposure(level): levels[level] for level in sorted(levels, key=_level)}
        parts.append(_results(f"{_title(name)} by exposure", rows, folded=True))
    for stage in [run] if run.seeds else [run, *run.stages]:
        if (flat := _flat(stage.summary)) and not stage.results:
            table = _table(["figure", "value"], [[escape(key), _shown(key, value)] for key, value in flat.items()])
            parts.append(f"<details><summary>{escape(_title(stage.name))}: summary.json</summary>{table}</details>")
    return "".join(parts)


def _results(title: str, results: dict[str, Any], folded: bool = False) -> str:
    """Rows of results by every estimate that any of them has."""
    figures = {name: estimates(value) for name, value in results.items() if isinstance(value, dict) and value}
    columns = [*dict.fromkeys(key for value in figures.values() for key in value)]
    if not columns:
        return ""
    rows = [
        [escape(_title(name)), *(_shown(key, value[key]) if key in value else "" for key in columns)]
        for name, value in figures.items()
    ]
    table = _table(["", *(escape(KINDS.get(key, key.replace("_", " "))) for key in columns)], rows)
    if folded:
        return f"<details><summary>{escape(title)}</summary>{table}</details>"
    return plots.figure(title, "Bold: mean. Small: 95% interval, where one was measured.", table)


def _settings(run: Findings) -> str:
    seconds = _seconds(run)
    rows = [[escape(_title(name)), duration(seconds[name])] for name in sorted(seconds, key=place)]
    rows.append(["All", duration(sum(seconds.values()))])
    html = (
        plots.figure("How long each stage took", "By the clock on the wall.", _table(["", ""], rows)) if seconds else ""
    )
    for stage in [run] if run.seeds else [run, *run.stages]:
        if stage.config:
            words = f"{escape(_title(stage.name))}: config.toml"
            html += f"<details><summary>{words}</summary><pre>{escape(stage.config)}</pre></details>"
    return html


def _seconds(run: Findings) -> dict[str, float]:
    """How long each stage took: by the summary, or by the last line of its metrics."""
    clocks = {stage.name: stage.metrics.get("time/seconds") for stage in run.stages or [run]}
    measured = {name: float(clock.y[-1]) for name, clock in clocks.items() if clock}
    return measured | {name: value.mean for name, value in estimates(within(run.summary, "seconds")).items()}
