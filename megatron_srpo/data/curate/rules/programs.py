"""Programming tasks that need more than a plain Python: libraries, machines, databases, other languages."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.asking import sentences
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import mentions
from megatron_srpo.data.curate.rules.tasks import NEGATED, in_task, task_text

LIBRARIES = re.compile(
    r"\b(?:numpy|np\.(?:array|nd|zeros|ones|dot|linalg|random)|pd\.(?:DataFrame|Series|read)|pytorch"
    r"|torch\.\w|tensorflow|keras|scikit-learn|sklearn|scipy|matplotlib|seaborn|plotly|opencv|cv2|jax"
    r"|hugging ?face|xgboost"
    r"|lightgbm|nltk|spacy|sqlalchemy|fastapi|pyspark|apache spark|hadoop|kafka|pygame|tkinter|pyqt"
    r"|selenium|beautifulsoup|scrapy|kubernetes|docker|nginx|redis|mongodb|postgres(?:ql)?|mysql"
    r"|sqlite3?"
    r"|jquery|node\.?js|express\.js|angular(?:js)?|vue(?:\.?js)|react\.?js|react native|spring boot"
    r"|opengl|cuda|opencl|vulkan|unity3d|arduino|raspberry pi|aws|azure|firebase|networkx|sympy"
    r"|ray tune|celery|airflow)\b",
    re.IGNORECASE,
)

# Names that are words too.
LIBRARIES_IN_CONTEXT = re.compile(
    r"\b(?i:import|using|use|with|in|from|via) (?:the )?(?:pandas|torch|flask|django|spark|dask|pillow"
    r"|polars|statsmodels|streamlit|rails|laravel)\b(?!['’]s? (?:house|cage))"
    r"|\bpandas? (?:data ?frames?|series|library)\b|\bdata ?frames?\b(?=.{0,80}\bpandas\b)|\b(?:Django"
    r"|Flask|Rails|Laravel|React|Svelte|Vue|Angular|Unity|Android|iOS|Swing|Qt)(?:\.js)? (?:app"
    r"|application|view|model|component|hook|project|rest|server|api|endpoint|form|template|route"
    r"|page|frontend|website|blueprint|activity|scene|game)\w*|\b(?:in|using|with) (?:React|Unity"
    r"|Android|iOS|Vue|Angular|Spark|Qt)\b|\btorch tensors?\b|\bneural network (?:in|with|using"
    r"|that)\b|\bgradio\b"
)

# No story speaks of these.
PLAINLY_LIBRARIES = re.compile(
    r"\bpandas (?:data ?frame|series|object)s?\b|\b(?:torch|tf|np|pd|plt)\.[A-Za-z]\w*"
    r"|\bnumpy (?:arrays?|ndarrays?|matrix)\b"
    r"|\b(?:pytorch|tensorflow|torch) (?:tensors?|models?|modules?)\b",
    re.IGNORECASE,
)

MACHINES = re.compile(
    r"\b(?:on|using|with|use|for|requires?|needs?) (?:a |an |the |your |multiple |two "
    r"|\d+ )?(?:nvidia )?(?:gpus?|tpus?)\b|\bgpu[- ](?:accelerated|kernel|memory|programming"
    r"|implementation|code)\b|\bcuda (?:kernel|program|code|c)\b",
    re.IGNORECASE,
)

DATABASES = re.compile(
    r"\b(?:my|postgre)?sql (?:queries|query|statement|script|procedure|command|injection|function"
    r"|trigger|table)s?\b|\bwrite (?:an?|the) (?:\w+ )?sql\b|\bconnects? to (?:a|an|the|your"
    r"|our) (?:\w+ ){0,2}(?:database|db|server)\b"
    r"|\b(?:save|store|insert|persist|write|load|read|fetch|retrieve|select|update|query|log"
    r"|record)\w* [^.\n]{0,60}\b(?:in|into|to|from) (?:a|an|the|your|our) (?:\w+ ){0,2}database\b"
    r"|\bquer(?:y|ies) (?:a|the|an|your) (?:\w+ )?database\b"
    r"|\bstored procedure\b|\bdatabase (?:connection|schema|table|migration|query|cursor|backend)s?\b"
    r"|\b(?:in|using|with) (?:my|postgre)?SQL\b|\bORM\b",
    re.IGNORECASE,
)

COMMANDS = re.compile(
    r"\b(?:bash|shell|powershell|batch|zsh|awk|sed) (?:script|command|one-liner|function|program"
    r"|pipeline)s?\b|\b(?:linux|unix|terminal|operating system|os|system|command[- ]line|console"
    r"|windows|git|docker) commands?\b|\bsubprocess\b|\bos\.(?:system|popen|exec)\w*"
    r"|\b(?:in|using|with|use) (?:bash|powershell|awk|sed|the (?:command line|terminal|shell))\b"
    r"|\b(?:crontab|chmod|grep command|systemd|makefile|environment variables?|running processes"
    r"|process id)\b|\bsystem call\b"
    r"|\b(?:using|use|run|with|execute) (?:the )?[`'\"]?(?:ls|grep|find|ps|chmod|curl|wget|tar|ssh|awk"
    r"|sed|top|kill)[`'\"]? command\b",
    re.IGNORECASE,
)

_LANGUAGE = (
    r"(?:C\+\+(?:\d\d)?|C#|Java(?:[Ss]cript)?(?! ?(?:island|coffee|sea))|JAVA|TypeScript|Typescript"
    r"|Ruby|PHP|Golang|Rust|Swift|Kotlin|Scala|Haskell|Perl|MATLAB|Matlab|Objective-C|F#|VB\.NET"
    r"|Visual Basic|Fortran|COBOL|Lua|Dart|Elixir|Erlang|Clojure|Prolog"
    r"|OCaml|Lisp|Scheme|Assembly|assembly|x86|VBA|Solidity|Verilog|VHDL|SQL|HTML|CSS|Julia|Pascal"
    r"|Delphi|Groovy|Racket|Brainfuck|Apex|ABAP)"
)

_MADE = (
    r"(?:class|function|program|method|code|script|struct|template|application|app|macro|query|page"
    r"|snippet|module|interface|implementation|solution|component|contract|subroutine|procedure"
    r"|stylesheet|form|file|library|project|routine|lambda|stream|servlet|bean|trait|enum|generic)"
)

OTHER_LANGUAGE = re.compile(
    r"\b(?i:write|implement|create|develop|define|design|code|build|complete|provide|make|give|produce"
    rf"|construct|fix|debug|refactor|solve|translate|convert)\b[^.?!\n]{{0,100}}?(?:"
    rf"(?:\b|(?<=[\s`])){_LANGUAGE}[`]? (?:\w+ ){{0,2}}?{_MADE}(?:s|es)?\b|\b(?i:in|using|into|to"
    rf"|with) (?:the )?[`]?(?:{_LANGUAGE}|(?:C|R|Go|D)(?= ?(?:language|program|function|[.,:;)]|$| that"
    r"| to| which| using| with| and)))(?![\w'])[`]?(?! ?(?:or|/|, ) ?(?:[\w+#]+ ?(?:or|/"
    rf"|,)? ?){{0,3}}?Python)"
    rf"|\b(?:the following|an?|this|your) (?:C|R|Go) (?:program|function|script|struct|macro|package|routine))",
)

OTHER_LANGUAGE_TAKEN = re.compile(
    rf"\b(?:[Ss]olutions?|[Ss]ubmissions?|[Aa]nswers?|[Pp]rograms?|[Cc]ode) (?:must be |should be "
    rf"|are to be |are |is )?(?:written )?"
    rf"(?:only )?in {_LANGUAGE}(?: only)?(?: (?:is|are|will be) (?:accepted|allowed)|[.!])"
    rf"|\b(?:[Ii]n|[Uu]sing) {_LANGUAGE}, (?:write|implement|create|define|develop|how|build|return"
    r"|design)|\b(?:[Yy]our (?:solution|program|code|answer) (?:must"
    rf"|should) be (?:written )?in) (?:{_LANGUAGE}|C\b|Go\b|R\b)|^(?:```|~~~)(?:cpp|c\+\+|java"
    rf"|javascript|csharp|rust|go)\b(?=[^`]{{0,400}}(?://\s?(?:your code|todo|write your)"
    r"|/\*\s?your code))",
    re.IGNORECASE | re.MULTILINE,
)

WITH_PYTHON = re.compile(r"\bPython\b|\bany (?:programming )?language\b", re.IGNORECASE)

IMPORTS = re.compile(
    r"(?m)^ ?(?:>>> ?)?(?:import|from) (?:numpy|pandas|torch|tensorflow|keras|sklearn|scipy|matplotlib"
    r"|django|flask|cv2|requests|sqlite3|sqlalchemy|pygame|tkinter|selenium|bs4|fastapi|subprocess"
    r"|psycopg2|pymongo)\b"
)

# What each rule's patterns need somewhere; a text without any of these is not searched.
ENVIRONMENT_WORDS = tuple(
    """
    numpy np. pd. torch tensor keras sklearn scikit scipy matplotlib seaborn plotly cv jax face
    xgboost lightgbm nltk spacy sqlalchemy fastapi spark hadoop kafka pygame tkinter pyqt selenium
    soup scrapy kubernetes docker nginx redis mongo postgres sql jquery node express angular vue
    react spring opengl cuda opencl vulkan unity arduino raspberry aws azure firebase networkx sympy
    tune celery airflow pandas panda flask django dask pillow polars statsmodels streamlit rails
    laravel svelte android ios swing qt gradio neural gpu tpu database orm bash shell command
    process crontab chmod systemd makefile environment terminal powershell awk console windows
    dataframe system data
    """.split()  # noqa: SIM905
)

LANGUAGE_NAMES = re.compile(_LANGUAGE + r"|\b(?:C|R|Go|D)\b|```|~~~")


def environment(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses what needs more than a plain Python: libraries, a GPU, a database, another language."""
    text = task_text(draft)
    found = IMPORTS.search(text) if "import" in text or "from" in text else None
    if found is None and mentions(text, ENVIRONMENT_WORDS):
        found = PLAINLY_LIBRARIES.search(text) or in_task(
            text, LIBRARIES, LIBRARIES_IN_CONTEXT, MACHINES, DATABASES, COMMANDS
        )
    if found is None and LANGUAGE_NAMES.search(text):
        found = _other_language(text)
    return f"needs {found[0].strip()[:60]}" if found else None


def _other_language(text: str) -> re.Match[str] | None:
    for sentence in sentences(text):
        found = OTHER_LANGUAGE.search(sentence) or OTHER_LANGUAGE_TAKEN.search(sentence)
        if found and not WITH_PYTHON.search(sentence) and not NEGATED.search(sentence, 0, found.start()):
            return found
    return None
