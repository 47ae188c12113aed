"""The built-in prompts, word for word."""

from pipeline.prompts import BUILT_IN

INSTRUCTION = (
    "Classify the following news article into one of four categories: World, Sports, Business, or Sci/Tech. The "
    "classification should be based solely on the content of the article.\nArticle:\n{text}"
)


def words(name: str) -> list[str]:
    return [label.words for label in BUILT_IN[name].labels]


def test_the_notebooks_prompts_have_its_words() -> None:
    """Templates and labels as the notebook had them, labels encoded apart."""
    assert BUILT_IN["detailed"].template == BUILT_IN["described"].template == INSTRUCTION
    question = "What is the topic of the following article?{text}"
    assert BUILT_IN["topic"].template == BUILT_IN["topic-science"].template == question
    assert words("detailed") == words("topic") == ["World", "Sports", "Business", "Sci/Tech"]
    assert words("topic-science") == ["World", "Sports", "Business", "Science"]
    assert words("described") == [
        "World: This category includes news articles about international events, politics, conflicts, and global "
        "issues.",
        "Sports: This category includes news articles about various sports, athletic events, players, and "
        "sports-related topics.",
        "Business: This category includes news articles about finance, economy, companies, markets, and "
        "business-related topics.",
        "Sci/Tech: This category includes news articles about science, technology, innovations, research, and tech "
        "industry news.",
    ]
    for name in ("detailed", "described", "topic", "topic-science"):
        assert BUILT_IN[name].boundary == "separate"


def test_the_default_prompt_joins_its_labels() -> None:
    """`answer` begins its words with a space and encodes them with the prompt."""
    prompt = BUILT_IN["answer"]
    assert (prompt.template, prompt.boundary) == ("Article: {text}\nTopic:", "joint")
    assert words("answer") == [" World", " Sports", " Business", " Sci/Tech"]
    assert (prompt.head, prompt.tail) == ("Article: ", "\nTopic:")
