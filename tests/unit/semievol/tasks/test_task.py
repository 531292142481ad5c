import pytest
from hypothesis import given
from hypothesis import strategies as st

from semievol.config.method import TaskConfig
from semievol.errors import ConfigError, DataError
from semievol.tasks.task import Task
from semievol.types import Example, Message, Query

LABELS = ("card arrival", "Card-Not Working", "what is your name?", "U.S. transfer", "answer: phone")
CLOSED = Task(TaskConfig(labels=LABELS))
OPEN = Task(TaskConfig())
CHOICE = Task(TaskConfig(form="multiple_choice"))

INTENT = Query("q", "where is my card")
SENTIMENT = Query("q", "The sentence.", options=("negative", "neutral", "positive"))


def example(example_id: str, question: str, answer: str) -> Example:
    return Example(Query(example_id, question), answer)


# --- the configuration ----------------------------------------------------------------------------------------------


def test_labels_that_fold_to_the_same_text_are_refused() -> None:
    with pytest.raises(ConfigError, match="'card_arrival' and 'Card Arrival' differ only in"):
        Task(TaskConfig(labels=("card_arrival", "Card Arrival")))


def test_an_empty_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty label"):
        Task(TaskConfig(labels=("a", " _ ")))


def test_a_label_with_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError, match="line break"):
        Task(TaskConfig(labels=("a", "b\nc")))


# --- checking queries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "query", "message"),
    [
        (OPEN, Query("q", "  "), "field 'question': is empty"),
        (
            Task(TaskConfig(max_question_chars=5)),
            Query("q", "123456"),
            "6 characters, more than task.max_question_chars",
        ),
        (CHOICE, Query("q", "x"), "field 'options': missing"),
        (CHOICE, Query("q", "x", options=("one",)), "needs 2 to 26 options, found 1"),
        (CHOICE, Query("q", "x", options=tuple("abcdefghijklmnopqrstuvwxyz1")), "found 27"),
        (CHOICE, Query("q", "x", options=("one", " ")), "empty option"),
        (OPEN, Query("q", "x", options=("one", "two")), "task.form is classification"),
        (Task(TaskConfig(form="numeric")), Query("q", "x", options=("1", "2")), "task.form is numeric"),
        (OPEN, Query("q", "x", messages=(Message("user", "x"), Message("assistant", "y"))), "last message must be"),
    ],
)
def test_a_query_that_cannot_be_asked_is_refused_with_field_and_fix(task: Task, query: Query, message: str) -> None:
    with pytest.raises(DataError, match=message):
        task.check_query(query)


def test_the_length_of_a_conversation_is_that_of_all_its_messages() -> None:
    task = Task(TaskConfig(max_question_chars=10))
    task.check_query(Query("q", "12345", messages=(Message("user", "12345"),)))
    with pytest.raises(DataError, match="has 15 characters"):
        task.check_query(Query("q", "12345", messages=(Message("system", "1234567890"), Message("user", "12345"))))


# --- canonical answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["card not working", "CARD_NOT_WORKING", " Card-not  working "])
def test_labels_compare_without_case_spaces_underscores_and_hyphens(answer: str) -> None:
    assert CLOSED.canonical(answer, INTENT) == "Card-Not Working"


def test_an_answer_outside_the_closed_set_is_an_error_that_suggests_the_nearest_label() -> None:
    with pytest.raises(DataError, match=r"'card arival' is not one of the 5 labels \(did you mean 'card arrival'\?\)"):
        CLOSED.canonical("card arival", INTENT)


def test_a_letter_beyond_the_options_is_an_error() -> None:
    assert CHOICE.canonical(" c ", SENTIMENT) == "C"
    with pytest.raises(DataError, match="'D' is not one of the letters A to C"):
        CHOICE.canonical("D", SENTIMENT)
    with pytest.raises(DataError, match="'positive' is not one of the letters"):
        CHOICE.canonical("positive", SENTIMENT)


@pytest.mark.parametrize(
    ("first", "answers"), [(0, {"0": "A", "1": "B", " 2 ": "C"}), (1, {"1": "A", "2": "B", "3": "C"})]
)
def test_the_number_of_an_option_is_read_from_where_the_setting_counts(first: int, answers: dict[str, str]) -> None:
    task = Task(TaskConfig.model_validate({"form": "multiple_choice", "answer_index": first}))
    assert {given: task.canonical(given, SENTIMENT) for given in answers} == answers
    assert task.canonical("b", SENTIMENT) == "B"
    for beyond in (str(first + 3), str(first - 1)):
        with pytest.raises(DataError, match=f"(number of none of the 3 options counted from {first}|'-1' is not one)"):
            task.canonical(beyond, SENTIMENT)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("0", "0 is the number of an option, and counted from 0 it is A; set task.answer_index: 0, or"),
        ("1", "counted from 0 it is B, counted from 1 it is A; set task.answer_index: 0 or 1, or give the letter"),
        ("3", "3 is the number of an option, and counted from 1 it is C; set task.answer_index: 1, or"),
        ("4", "4 is the number of none of the 3 options"),
    ],
)
def test_a_number_is_never_taken_for_an_option_in_silence(answer: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        CHOICE.canonical(answer, SENTIMENT)


def test_where_options_are_counted_from_belongs_to_a_multiple_choice() -> None:
    with pytest.raises(ValueError, match="answer_index belongs to form multiple_choice; numeric has no options"):
        TaskConfig(form="numeric", answer_index=0)


def test_an_open_answer_is_stripped_and_its_whitespace_collapsed() -> None:
    assert OPEN.canonical("  a \n b\t c ", INTENT) == "a b c"
    with pytest.raises(DataError, match="is empty"):
        OPEN.canonical(" \n", INTENT)


# --- parsing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("C", "C"),
        (" c\n", "C"),
        ("C. positive", "C"),
        ("C) because it is", "C"),
        ("(C)", "C"),
        ("[c]: positive", "C"),
        ("**C**", "C"),
        ("Answer: C", "C"),
        ("The answer is: (C).", "C"),
        ("Profits rose, so it sounds good.\nAnswer: C", "C"),
        ("positive", "C"),
        ("Positive.", "C"),
        ("C positive", "C"),
        ("D", None),
        ("D. positive", None),
        ("A positive tone", None),
        ("I think so", None),
        ("Z", None),
        ("", None),
        ("Answer:", None),
        ("42", None),
    ],
)
def test_parsing_of_multiple_choice(text: str, answer: str | None) -> None:
    assert CHOICE.parse(text, SENTIMENT) == answer


def test_an_option_text_that_occurs_twice_names_no_option() -> None:
    assert CHOICE.parse("same", Query("q", "x", options=("same", "same", "other"))) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("card arrival", "card arrival"),
        ("Card_Arrival.", "card arrival"),
        ('"card arrival"', "card arrival"),
        ("card arrival\nBecause you asked", "card arrival"),
        ("Answer: card arrival", "card arrival"),
        ("what is your name?", "what is your name?"),
        ("u.s. transfer", "U.S. transfer"),
        ("answer: phone", "answer: phone"),
        ("card", None),
        ("card arrival and more", None),
        ("", None),
        ("\n\n", None),
    ],
)
def test_parsing_of_a_closed_set_is_exact_after_folding(text: str, answer: str | None) -> None:
    assert CLOSED.parse(text, INTENT) == answer


def test_parsing_of_an_open_set_takes_the_first_line() -> None:
    assert OPEN.parse("\n Answer:  some  label \nmore", INTENT) == "some label"
    assert OPEN.parse(" \n ", INTENT) is None


def test_a_label_on_a_line_that_was_cut_at_the_token_limit_is_no_label() -> None:
    assert CLOSED.parse("card arrival", INTENT, truncated=True) is None
    assert OPEN.parse("card arr", INTENT, truncated=True) is None
    assert CLOSED.parse("card arrival\nbecause", INTENT, truncated=True) == "card arrival"
    assert CHOICE.parse("C. posit", SENTIMENT, truncated=True) == "C"


@given(st.text(), st.booleans())
def test_whatever_the_model_says_parsing_stays_within_the_set(text: str, truncated: bool) -> None:
    assert CLOSED.parse(text, INTENT, truncated=truncated) in {*LABELS, None}
    assert CHOICE.parse(text, SENTIMENT, truncated=truncated) in {"A", "B", "C", None}


@given(st.text())
def test_parsing_the_completion_of_a_canonical_open_answer_gives_it_back(answer: str) -> None:
    try:
        canonical = OPEN.canonical(answer, INTENT)
    except DataError:
        return
    assert OPEN.canonical(canonical, INTENT) == canonical
    assert OPEN.parse(OPEN.completion(canonical), INTENT) == canonical


@given(st.lists(st.text(min_size=1), min_size=2, max_size=6))
def test_parsing_the_completion_of_a_canonical_label_gives_it_back(labels: list[str]) -> None:
    try:
        task = Task(TaskConfig(labels=tuple(labels)))
    except (ConfigError, ValueError):
        return
    for label in labels:
        assert task.canonical(label, INTENT) == label
        assert task.parse(task.completion(label), INTENT) == label


# --- prompts --------------------------------------------------------------------------------------------------------


def test_neighbours_are_turns_before_the_question() -> None:
    task = Task(TaskConfig(instruction="Name the intent.", template="Q: {question}"))
    assert task.prompt(Query("q", "and {question}?"), [example("e", "first", "greeting")]) == (
        Message("system", "Name the intent."),
        Message("user", "Q: first"),
        Message("assistant", "greeting"),
        Message("user", "Q: and {question}?"),
    )


def test_multiple_choice_shows_lettered_options() -> None:
    (message,) = CHOICE.prompt(SENTIMENT)
    assert message.content == "The sentence.\nA. negative\nB. neutral\nC. positive\nAnswer:"


def test_a_conversation_is_kept_and_its_system_message_moves_to_the_front() -> None:
    task = Task(TaskConfig(instruction="Be brief."))
    talk = (Message("system", "You are kind."), Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert task.prompt(Query("q", "c", messages=talk), [example("e", "first", "greeting")]) == (
        Message("system", "Be brief.\n\nYou are kind."),
        Message("user", "first"),
        Message("assistant", "greeting"),
        *talk[1:],
    )


def test_self_justification_lists_the_candidates_in_the_last_turn() -> None:
    *before, last = CHOICE.justify_prompt(SENTIMENT, [], ["C", "A"])
    assert before == []
    assert last.content == (
        "The sentence.\nA. negative\nB. neutral\nC. positive\n\nCandidate answers:\n- C. positive\n- A. negative\n\n"
        "Reply with the letter of the best one only.\nAnswer:"
    )
    *before, last = CLOSED.justify_prompt(INTENT, [example("e", "first", "card arrival")], ["card arrival", "x"])
    assert [message.role for message in before] == ["user", "assistant"]
    assert last.content.startswith("where is my card\n\nCandidate answers:\n- card arrival\n- x\n\n")


def test_the_choices_are_all_that_can_be_answered() -> None:
    query = Query("q", "which?", options=("red", "green", "blue"))
    assert Task(TaskConfig(form="multiple_choice")).choices(query) == ("A", "B", "C")
    assert Task(TaskConfig(labels=("refund", "delivery"))).choices(Query("q", "?")) == ("refund", "delivery")
    assert Task(TaskConfig()).choices(Query("q", "?")) is None


# --- a pattern of the user's own ------------------------------------------------------------------------------------

TAGGED = {"answer_pattern": r"<answer>(.*?)</answer>", "answer_template": "<answer>{answer}</answer>"}


def test_a_pattern_that_does_not_compile_and_a_template_without_the_answer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"answer_pattern is no regular expression .*unterminated.*; mend it"):
        TaskConfig(answer_pattern="(")
    with pytest.raises(ValueError, match=r"answer_template must contain \{answer\}"):
        TaskConfig(answer_template="the answer")
    with pytest.raises(ValueError, match="numeric has none, leave them out"):
        TaskConfig(form="numeric", labels=("a", "b"))


@pytest.mark.parametrize(
    ("config", "text", "answer"),
    [
        (TaskConfig(labels=("a", "b"), **TAGGED), "b or <answer>a</answer>?\n<answer> B. </answer> it is", "b"),
        (TaskConfig(labels=("a", "b"), **TAGGED), "b", None),
        (TaskConfig(labels=("a", "b"), **TAGGED), "<answer>c</answer>", None),
        (TaskConfig(form="numeric", **TAGGED), "1, 2 <answer>$ 1,500</answer> 3", "1500"),
        (TaskConfig(form="short_answer", answer_pattern=r"(?m)^So .*$"), "Well.\nSo be it\nyes", "So be it"),
        (TaskConfig(form="short_answer", answer_pattern=r"so (\w+)|(?:thus) \w+"), "so be, thus it", "thus it"),
        (TaskConfig(form="short_answer", answer_pattern=r"=(.*)"), "=x\n=\n", "x"),
    ],
)
def test_a_pattern_finds_the_answer_and_the_form_reads_it(config: TaskConfig, text: str, answer: str | None) -> None:
    assert Task(config).parse(text, INTENT) == answer


def test_what_a_pattern_finds_whole_is_an_answer_of_a_text_that_was_cut_later() -> None:
    task = Task(TaskConfig(form="numeric", answer_pattern=r"total: (\S+)"))
    assert task.parse("total: 12", INTENT, truncated=True) is None
    assert task.parse("total: 12 an", INTENT, truncated=True) == "12"


def test_with_a_pattern_the_taught_text_is_one_in_which_it_finds_the_answer() -> None:
    task = Task(TaskConfig(form="multiple_choice", **TAGGED))
    assert task.canonical("b", SENTIMENT) == "B"
    assert task.choices(SENTIMENT) == ("<answer>A</answer>", "<answer>B</answer>", "<answer>C</answer>")
    shown = task.prompt(SENTIMENT, [Example(SENTIMENT, "C")])
    assert shown[1] == Message("assistant", "<answer>C</answer>")
    *_, last = task.justify_prompt(SENTIMENT, [], ["C", "A"])
    assert last.content.endswith("letter of the best one only, written as: <answer>...</answer>")
    bare = Task(TaskConfig(labels=("a", "b"), answer_pattern=TAGGED["answer_pattern"]))
    with pytest.raises(DataError, match=r"'a' is taught as 'a', which is read as None; make task.answer_template and"):
        bare.canonical("A", INTENT)


@given(st.sampled_from(["a", "b", "x y"]), st.text(alphabet="ab <>/answer", max_size=20))
def test_parsing_the_completion_gives_the_answer_back_also_with_a_pattern(label: str, before: str) -> None:
    task = Task(TaskConfig(labels=("a", "b", "x y"), **TAGGED))
    assert task.parse(task.completion(label), INTENT) == label
    assert task.parse(f"{before} {task.completion('b')} {task.completion(label)}", INTENT) == label


def test_candidates_of_several_lines_are_told_apart_when_the_model_picks() -> None:
    *_, last = Task(TaskConfig(form="free_form")).justify_prompt(INTENT, [], ["one\ntwo", "three"])
    assert "\n- one\n  two\n- three\n" in last.content


# --- how characters are stored --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", ["cafe\u0301 a", "caf\u00e9\u00a0a", "caf\u00e9 a\u200b", "CAF\u00c9\u2011A", "\ufeffcaf\u00e9 a"]
)
def test_a_label_is_one_however_its_characters_are_stored(other: str) -> None:
    with pytest.raises(ConfigError, match="or in how the same characters are stored"):
        Task(TaskConfig(labels=("caf\u00e9 a", other)))
    closed = Task(TaskConfig(labels=("caf\u00e9 a", "tea")))
    assert closed.canonical(other, INTENT) == closed.parse(f"Answer: {other}", INTENT) == "caf\u00e9 a"


@pytest.mark.parametrize("blank", ["\u200b", "\ufeff \u00ad", "\u2060"])
def test_what_shows_nothing_is_no_label_no_answer_and_no_question(blank: str) -> None:
    with pytest.raises(ConfigError, match="empty label"):
        Task(TaskConfig(labels=("a", blank)))
    for form in ("classification", "short_answer", "free_form"):
        task = Task(TaskConfig(form=form))
        with pytest.raises(DataError, match="'answer': is empty"):
            task.canonical(blank, INTENT)
        with pytest.raises(DataError, match="'question': is empty"):
            task.check_query(Query("q", blank))


def test_an_answer_of_an_open_set_is_composed_and_signs_of_several_parts_stay_whole() -> None:
    assert OPEN.canonical("cafe\u0301\u200b", INTENT) == OPEN.parse("caf\u00e9", INTENT) == "caf\u00e9"
    family = "\U0001f468\u200d\U0001f467"
    assert OPEN.canonical(family, INTENT) == family


@pytest.mark.parametrize("break_", ["\r", "\u2028", "\x85"])
def test_every_line_break_within_a_label_is_refused(break_: str) -> None:
    with pytest.raises(ConfigError, match="line break"):
        Task(TaskConfig(labels=("a", f"b{break_}c")))
