"""Which learners a study has: names, groups of them, and what does not suit it."""

import pytest

from metasum import settings
from metasum.baselines import register
from metasum.baselines.independent import IndependentLearner
from metasum.baselines.registry import ANCHORS, GROUPS, LEARNERS
from metasum.errors import UsageError
from metasum.merging import METHODS
from metasum.merging.method import Method
from metasum.study.asking import groups, learners_asked
from metasum.study.experimenting import refusal


def everything(name):
    return None


def test_every_learner_is_of_one_group():
    assert set(groups()) == {*LEARNERS, *ANCHORS}
    assert set(groups().values()) == set(GROUPS)
    for name, group in groups().items():
        assert name in ANCHORS or (LEARNERS[name].no_merge is not None) == (group == "anchors"), name
        assert name.endswith("-two-inits") == (group == "two-starts"), name
    for name, method in METHODS.items():
        if method.compared:
            assert groups()[name] == method.group()
    assert {METHODS[name].group() for name in ("zipit", "weight-matching", "side-by-side")} == {"matching"}


def test_groups_stand_for_their_own_and_names_keep_their_order():
    found = learners_asked(["slerp", "trained", "anchors", "independent"], but=everything)
    trained = [name for name, group in groups().items() if group == "trained"]
    assert found[: 1 + len(trained)] == ("slerp", *trained)
    assert {*found[1 + len(trained) :]} == {"two-head", "multi-input", "emr", "tall-masks", "joint-training"}
    assert learners_asked(None, but=everything) == learners_asked(["all"], but=everything) == tuple(groups())


def test_what_does_not_suit_is_left_out_of_a_group_and_refused_by_name():
    def but(name):
        return refusal(name, 3, settings())

    assert not {"slots", "slerp"} & {*learners_asked(["trained", "one-start"], but=but)}
    assert learners_asked(["two-starts"], but=but) == ()
    with pytest.raises(UsageError, match="does not merge 3 networks"):
        learners_asked(["one-start", "slerp"], but=but)
    with pytest.raises(UsageError, match="names 'ties' twice"):
        learners_asked(["ties", "one-start", "ties"], but=but)
    with pytest.raises(UsageError, match="did you mean 'ties'"):
        learners_asked(["tise"], but=but)


@pytest.mark.parametrize("kind", [IndependentLearner, Method])
def test_nothing_can_be_called_as_a_group_is(kind):
    with pytest.raises(UsageError, match="'anchors' is the name of a group"):
        register(type("Mine", (kind,), {"name": "anchors", "summary": "Mine."}))


def test_a_plug_ins_learner_is_among_the_ways_of_training():
    register(type("Mine", (IndependentLearner,), {"name": "mine", "summary": "Mine."}))
    assert "mine" in learners_asked(["trained"], but=everything)


def test_the_command_takes_groups_and_says_who_is_nobody(metasum, tiny):
    flags = [flag for flag in tiny if flag not in ("--target", "rows")]
    outcome = metasum("experiment", *flags, "--targets", "rows,lines", "--learners", "two-starts")
    assert outcome.code == 2
    assert "--learners names nobody" in outcome.err


@pytest.mark.parametrize("listing", [("learners",), ("methods",), ("methods", "ties", "adamerging")])
def test_listings_fit_a_terminal_of_80_columns(metasum, monkeypatch, listing):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = metasum(*listing)
    assert outcome.code == 0, outcome.err
    names = (LEARNERS, ANCHORS) if listing == ("learners",) else (METHODS,)
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 88, "a title may be a few words longer"
    words = {word.strip(",") for line in lines for word in line.split()}
    assert len(listing) > 1 or {*(name for known in names for name in known)} <= words, "no name is broken"
    if len(listing) > 1:
        assert {"--density", "--trim", "--adamerging-lr"} <= words
        assert "arXiv:2306.01708" in outcome.out
