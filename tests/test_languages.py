"""Detection of a corpus's language, and the terms that BM25 makes of texts in it."""

import logging
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from prorank.adapt.held_out_folds import check_source_language
from prorank.cli.command_line import app
from prorank.data.beir import Collection, read_beir
from prorank.data.bm25 import Bm25
from prorank.data.languages import CODES, Language, check_language, detect_language, language_names, language_of
from prorank.data.negatives import mine_negatives
from prorank.data.terms import TermSplitter, word_set
from prorank.errors import ConfigError
from prorank.evaluate import evaluate
from prorank.search.searcher import Searcher

bm25s = pytest.importorskip("bm25s")
Stemmer = pytest.importorskip("Stemmer")

ENGLISH = [
    "The old bridge over the river was built in 1210 and is still used by farmers of the valley.",
    "Bakers who knead dough for running bakeries are tired; it is hard work, and they sleep little.",
    "Foxes hunt at night, so chickens in coops should be locked in before the sun goes down.",
]
TEXTS = {
    "english": ENGLISH,
    "arabic": ["القط ينام على الكرسي في البيت", "هذا الكتاب عن تاريخ المدينة التي بنيت في القرن الماضي"],
    "armenian": ["Կատուն քնում է աթոռի վրա", "Գիրքը քաղաքի պատմության մասին է"],
    "basque": ["Katua aulkian lo dago eta ez du entzuten", "Liburu hau hiriaren historia da baina ez dute irakurri"],
    "burmese": ["ကြောင်သည် ကုလားထိုင်ပေါ်တွင် အိပ်နေသည်။"],
    "catalan": ["El gat dorm a la cadira i no sent res", "Aquest llibre és una història de la ciutat amb els seus carrers"],
    "chinese": ["猫在椅子上睡觉。", "这本书讲述了这座城市的历史。", "他每天早上喝一杯 coffee。"],
    "danish": ["Katten sover på stolen og hører ikke noget", "Bogen handler om byens historie, og det er en gave til dem af mig"],
    "dutch": ["De kat slaapt op de stoel en hoort niets", "Het boek gaat over de geschiedenis van een stad die niet meer is"],
    "finnish": ["Kissa nukkuu tuolilla ja ei kuule mitään", "Kirja kertoo kaupungista, joka oli suuri, mutta se ei ole enää"],
    "french": ["Le chat dort sur la chaise et n'entend rien", "Ce livre raconte l'histoire de la ville et de ses rues"],
    "german": ["Die Katze schläft auf dem Stuhl und hört nichts", "Das Buch handelt von einer Stadt, die nicht groß ist"],
    "greek": ["Η γάτα κοιμάται στην καρέκλα", "Το βιβλίο είναι για την ιστορία της πόλης"],
    "hindi": ["बिल्ली कुर्सी पर सो रही है", "यह किताब शहर के इतिहास की कहानी है", "दिल्ली में बहुत लोग हैं और वे काम करते हैं"],
    "hungarian": ["A macska alszik a széken és nem hall semmit", "Ez a könyv egy város története, de már nem új, és az is szép"],
    "indonesian": ["Kucing itu tidur di kursi dan tidak mendengar", "Buku ini adalah sejarah kota yang tidak besar"],
    "irish": ["Tá an cat ina chodladh ar an gcathaoir agus ní chloiseann sé", "Is é seo an leabhar ag insint na staire"],
    "italian": ["Il gatto dorme sulla sedia e non sente nulla", "Questo libro racconta la storia della città e delle sue strade"],
    "japanese": ["猫は椅子の上で寝ています。", "この本は都市の歴史について書かれています。"],
    "khmer": ["ឆ្មាកំពុងដេកលើកៅអី។"],
    "korean": ["고양이가 의자 위에서 자고 있다.", "이 책은 도시의 역사를 이야기한다."],
    "lao": ["ແມວນອນຢູ່ເທິງຕັ່ງ"],
    "lithuanian": ["Katė miega ant kėdės ir nieko negirdi", "Tai yra knyga apie miestą, kuris buvo didelis, bet ne naujas"],
    "nepali": ["बिरालो कुर्सीमा सुतेको छ र केही सुन्दैन", "यो शहर को इतिहास हो र पनि नयाँ छ", "मानिस काम गर्न लागि आएका छन्"],
    "norwegian": ["Katten sover på stolen og hører ikke noe", "Boken handler om byen av i dag, og jeg har lyst til å lese den"],
    "portuguese": ["O gato dorme na cadeira e não ouve nada", "Este livro conta a história da cidade e das suas ruas"],
    "romanian": ["Pisica doarme pe scaun și nu aude nimic", "Această carte este despre un oraș care a fost mare și nu mai este"],
    "russian": ["Кошка спит на стуле и ничего не слышит", "Эта книга о городе, который был большим, но его больше нет"],
    "serbian": ["Мачка спава на столици и не чује ништа", "Ово је књига о граду који је био велик, али није у овој земљи"],
    "spanish": ["El gato duerme en la silla y no oye nada", "Este libro cuenta la historia de la ciudad y de sus calles"],
    "swedish": ["Katten sover på stolen och hör inte något", "Boken handlar om stadens historia, och det är inget som jag har"],
    "tamil": ["பூனை நாற்காலியில் தூங்குகிறது", "இந்த புத்தகம் நகரத்தின் வரலாறு"],
    "thai": ["แมวนอนอยู่บนเก้าอี้", "หนังสือเล่มนี้เกี่ยวกับประวัติศาสตร์ของเมือง"],
    "turkish": ["Kedi sandalyede uyuyor ve hiçbir şey duymuyor", "Bu kitap bir şehir için yazıldı ama çok uzun ve daha iyi değil"],
}  # fmt: skip
# Texts whose language no stemmer knows, or that show none.
UNKNOWN = {
    "bulgarian": ["Котката спи на стола и не чува нищо", "Това е книга за града, който е голям, но не се знае от кога"],
    "ukrainian": ["Кіт спить на стільці і нічого не чує", "Ця книга про місто, що було великим, але його вже немає"],
    "vietnamese": ["Con mèo ngủ trên ghế và không nghe gì", "Cuốn sách này là lịch sử của thành phố"],
    "two languages": TEXTS["german"] + TEXTS["spanish"],
    "numbers": ["12 34", "5 6 7"],
    "names": ["Rex Fido", "Bello Hasso"],
    "nothing": ["", " "],
}


@pytest.mark.parametrize("name", TEXTS)
def test_short_corpora_are_recognised(name: str) -> None:
    found = detect_language(TEXTS[name])
    assert found.name == name and found.detected
    assert bool(found.note) == (name != "english") and (name.title() in found.note or not found.note)


@pytest.mark.parametrize("name", UNKNOWN)
def test_other_texts_are_not_recognised_and_that_is_said(name: str) -> None:
    found = detect_language(UNKNOWN[name])
    assert found == Language(None, None, True) and "not recognised" in found.note
    assert TermSplitter(found).split(["The foxes"]) == [["the", "foxes"]]


def test_a_corpus_in_two_scripts_has_both_treatments() -> None:
    found = detect_language(ENGLISH * 2 + TEXTS["chinese"])
    assert found.name == "english and chinese" and "look English and Chinese (stemmer, stop words, character bigrams)" in found.note
    assert TermSplitter(found).split(["The foxes 睡觉 of NASA"]) == [["fox", "nasa", "睡觉"]]
    quoted = detect_language(ENGLISH * 20 + ["A city (東京)."])
    assert quoted == Language("english", None, True) and not quoted.note  # a name does not change how English is read


def test_names_and_codes() -> None:
    assert check_language(" German ") == check_language("DE") == "german" and check_language("zh") == "chinese"
    assert set(CODES.values()) <= set(language_names())
    assert language_of("auto", TEXTS["thai"]).unspaced == "thai"
    assert language_of("none", ENGLISH) == Language(None) and language_of("de", ENGLISH) == Language("german")
    with pytest.raises(ConfigError, match=r"'klingon' is unknown; valid: .*\bchinese, .*\bgerman, .*\bnone, .*\bthai"):
        check_language("klingon")
    with pytest.raises(ConfigError, match="language: None is unknown"):
        check_language(None)  # type: ignore[arg-type]


def previous_scores(corpus: list[str], query: str) -> np.ndarray:
    """BM25 scores with English stop words and stemmer, by bm25s alone."""
    options = {"stopwords": "english", "stemmer": Stemmer.Stemmer("english"), "return_ids": False, "show_progress": False}
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    index.index(bm25s.tokenize(corpus, **options), show_progress=False)
    ids = index.get_tokens_ids(bm25s.tokenize([query], **options)[0])
    return index.get_scores_from_ids(ids) if ids else np.zeros(len(corpus), np.float32)


WORDS = st.sampled_from("the Foxes of running café naïve ﬁne 東京 X 12 it's co-op\u00adop under_score hunted \ud800 ½".split(" "))


@given(st.lists(WORDS, max_size=30).map(" ".join), st.lists(WORDS, max_size=6).map(" ".join))
def test_english_is_split_and_scored_as_by_bm25s(text: str, query: str) -> None:
    corpus = [*ENGLISH, *ENGLISH, *ENGLISH, *ENGLISH, text]
    for language in ("auto", "english"):
        index = Bm25({str(i): one for i, one in enumerate(corpus)}, language=language)
        if index.language.unspaced is None:
            assert index.scores(query).tobytes() == previous_scores(corpus, query).tobytes()


def test_english_collections_are_scored_as_by_bm25s(data_dir: Path) -> None:
    for name in ("adi", "cosqa", "npl_vaswani", "semanlink_arxiv", "xquad_en"):
        real = read_beir(data_dir / name)
        index, texts = Bm25(real.corpus), list(real.corpus.values())
        assert index.language == Language("english", None, True), name
        for query in list(real.queries.values())[:2]:
            assert index.scores(query).tobytes() == previous_scores(texts, query).tobytes(), name


def test_characters_without_spaces_become_bigrams() -> None:
    split = TermSplitter(Language(None, "chinese")).split
    assert split(["黑豹队的 NFL 防守 5。"]) == [["nfl", "5", "黑豹", "豹队", "队的", "防守"]]
    assert split(["猫"]) == [["猫"]] and split(["猫", "猫猫"], documents=True) == [["猫"], ["猫猫", "猫", "猫"]]
    assert split(["ＮＦＬ ｶﾞｲﾄﾞ"]) == [["nfl", "ガイ", "イド"]]  # full and half width
    assert split(["กำลังที่"]) == [["กํา", "าลั", "ลัง", "งที่"]]  # a vowel or tone belongs to its consonant
    assert split(["東京・大阪 スーパー"]) == [["東京", "大阪", "スー", "ーパ", "パー"]]
    assert split(["고양이가 "]) == [["고양", "양이", "이가"]] == split([unicodedata.normalize("NFD", "고양이가")])


def test_words_of_other_languages() -> None:
    split = TermSplitter(Language("german")).split
    assert split(["Die Katzen schla\u0308fen"]) == split(["der Katze schläfen"]) == [["katz", "schlaf"]]
    assert TermSplitter(Language("hindi")).split(["लड़कियाँ"]) == TermSplitter(Language("hindi")).split(["लड़कियों"])
    assert TermSplitter(Language("turkish")).split(["ISPARTA"]) == TermSplitter(Language("turkish")).split(["ısparta"])
    assert TermSplitter(Language(None)).split(["Die die in"]) == [["die", "die", "in"]]


LANGUAGES = st.sampled_from([Language("english"), Language("english", "chinese"), Language("german"), Language(None, "thai")])


@given(st.text(), st.text(), LANGUAGES)
def test_any_text_is_split(a: str, b: str, language: Language) -> None:
    split = TermSplitter(language).split
    rows = split([a, b, f"{a}\n{b}"])
    assert sorted(rows[0] + rows[1]) == sorted(rows[2]) if language.words != "english" else len(rows) == 3
    documents = split([a], documents=True)[0]
    assert not sorted(set(rows[0]) - set(documents)) and word_set(a) >= frozenset()
    index = Bm25({"a": a, "b": b}, language="auto")
    assert index.scores(a).shape == (2,)


@given(st.text("猫睡觉在椅子上 a。", min_size=1), st.text("猫睡觉在椅子上", min_size=1, max_size=2))
def test_a_text_of_one_or_two_characters_finds_every_text_that_contains_it(text: str, query: str) -> None:
    assert (Bm25({"a": text}, language="chinese").scores(query)[0] > 0) == (query in text)


def chinese() -> Collection:
    """Four texts about cats, one of them relevant and one its copy but for a character, and eight about bread."""
    cats = {"rel": "猫喜欢在阳光下的椅子上睡觉，每天睡十六个小时，醒来以后就去厨房找东西吃，然后坐在窗台上看外面的小鸟和行人。"}
    cats["twin"] = cats["rel"].replace("十六", "十七")
    cats |= {"cat1": "猫在夜里捕捉老鼠。", "cat2": "城市里的流浪猫很多。"}
    bread = {f"bread{i}": f"面包师第{i}次把面团放进烤箱。" for i in range(8)}
    return Collection("toy", cats | bread, {"q": "猫在哪里睡觉，流浪猫每天睡几个小时"}, {"q": {"rel": 1}})


def test_negatives_of_chinese_texts() -> None:
    groups, report = mine_negatives(chinese(), negatives=3)
    documents = groups[0].doc_ids
    assert set(documents[:3]) == {"rel", "cat1", "cat2"} and documents[3].startswith("bread")
    assert report.mined == 2 and report.dropped["near_duplicate"] >= 1 and "the texts look Chinese" in str(report)
    with pytest.raises(ConfigError, match="language: 'x'"):
        mine_negatives(chinese(), language="x")


def test_a_search_says_what_it_detected(caplog: pytest.LogCaptureFixture) -> None:
    documents = list(chinese().corpus.values())
    with caplog.at_level(logging.WARNING, "prorank"):
        assert [hit.index for hit in Searcher(documents, None).search("老鼠")] == [2]
        assert [hit.index for hit in Searcher(documents, None, language="chinese").search("老鼠")] == [2]
    assert [record.getMessage() for record in caplog.records] == [detect_language(documents).note]
    with pytest.raises(ConfigError, match="language: 'x'"):
        Searcher(documents, None, language="x")


def test_an_unused_language_is_refused(toy_file: Path, collections: Path) -> None:
    with pytest.raises(ConfigError, match="language 'german' is for BM25, .* omit it for"):
        check_source_language([toy_file], "german")
    check_source_language([toy_file, collections / "toy"], "german")
    check_source_language([toy_file], "auto")
    with pytest.raises(ConfigError, match="--run and --language exclude each other"):
        evaluate([collections / "toy"], run="protocol", language="german")


VERBS = {
    "mine": ["mine", "toy", "out.jsonl"],
    "evaluate": ["evaluate", "toy"],
    "adapt": ["adapt", "toy", "--out", "run"],
    "search": ["search", "toy", "violin", "--no-rerank"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_refuse_an_unknown_language(
    verb: str, collections: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(collections / "toy", tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    model = ["-m", str(tiny_llama_dir)] if verb == "adapt" else []
    with pytest.raises(ConfigError, match="language: 'germn' is unknown; valid: "):
        CliRunner().invoke(app, [*VERBS[verb], *model, "--language", "germn"], catch_exceptions=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


FIGURES = {"xquad_en": 0.9648, "xquad_de": 0.9441, "xquad_es": 0.9617, "xquad_zh": 0.9669}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_four_languages(data_dir: Path, name: str) -> None:
    """The figures in docs/guides/evaluate.md."""
    row = evaluate([data_dir / name]).rows[0]
    assert row.measures["nDCG@10"] == pytest.approx(FIGURES[name], abs=5e-5)
