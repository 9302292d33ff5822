"""Programming tasks that need more than a plain Python with standard input and output."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.asking import sentences
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import mentions, squeezed, without_marks

# A sentence that tells the program, or who writes it, what to do; all others are the story.
TASK = re.compile(
    r"^[\W\d]{0,8}(?:(?:your task is to|you (?:must|should|need to|have to|are (?:asked|required"
    r"|expected) to)|please|task|then|finally|also|next|now|problem|question|in this (?:task|problem"
    r"|exercise|kata)"
    r"|(?:using|with|in) [^,]{1,60},|given [^,]{1,100}),?:? ){0,2}(?:write|implement|create|build"
    r"|develop|design|define|complete|make|code|program|train|use|using|load|read|open|save|store"
    r"|export|append|insert"
    r"|download|fetch|send|scrape|crawl|connect|query|call|retrieve|run|execute|parse|return|print"
    r"|display|output|plot|train|deploy|set up|launch|compute|calculate|find|convert|import|group"
    r"|filter|merge|normali[sz]e|multiply|predict|classify|visuali[sz]e|complete|fit|add|extract"
    r"|produce"
    r"|generate|given|solve|perform|launch|start|listen|request|upload|post|log|dump|copy|move|rename"
    r"|delete|list|count|sort|process|render|configure|extend|refactor|translate|rewrite|provide"
    r"|construct|kill)\b"
    r"|\b(?:your|the|this) (?:program|function|solution|code|script|task|method|class|implementation"
    r"|app|application|tool|module|submission) (?:should|must|is to|needs? to|has to|will|shall|can"
    r"|takes|reads|writes|returns|accepts|receives|saves|downloads|fetches|sends|connects|uses"
    r"|opens)\b"
    r"|\b(?:write|implement|create|build|develop|design) (?:a|an|the"
    r"|your own) (?:\w+[- ]){0,4}(?:function|program|script|class|method|code|app|application|model"
    r"|query|kernel|api|server|client|bot|crawler|scraper|component|pipeline|tool|utility|service"
    r"|module|view|endpoint|page|trigger|procedure|network)\b"
    r"|\b(?:you (?:must|should|need to|have to|are (?:asked|required|expected) to|will)"
    r"|your task is to|asks you to|wants you to|help \w+ (?:to )?(?:write|implement)) ",
    re.IGNORECASE,
)
NEGATED = re.compile(
    r"\b(?:without|not (?:allowed|use|need|required|permitted)|don't|do not|does not|no (?:need"
    r"|external|third[- ]party|additional|other)|avoid|instead of|cannot|can't|never|must not"
    r"|should not|shouldn't|forbidden|prohibited|rather than|none of)\b",
    re.IGNORECASE,
)
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
    rf"|\b(?:an? )(?:C|R|Go) (?:program|function|script|struct|macro|package|routine))",
)
OTHER_LANGUAGE_TAKEN = re.compile(
    rf"\b(?:[Ii]n|[Uu]sing) {_LANGUAGE}, (?:write|implement|create|define|develop|how|build|return"
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

FILE_NAME = (
    r"[`'\"“]?[\w{}-]{1,40}\.(?:txt|csv|json|xml|in|out|dat|xlsx?|log|ya?ml|tsv|pdf|docx?|ini|md|html"
    r"|png|jpe?g|zip|pkl|parquet|bin)\b[`'\"”]?"
)
_FILE = (
    r"(?:(?:a |an |the |this |each |given |specified |its "
    rf"|your )?(?:[\w.-]+ ){{0,3}}files?(?! ?(?:systems?|size|server|cabinet|s? of people))\b"
    rf"|{FILE_NAME})"
)
FILES = re.compile(
    r"\b(?:reads?|reading|loads?|loading|parses?|parsing|imports?|input|takes? input|data|lines?"
    r"|numbers|words|text|records|contents?|stored|integers|values|names"
    rf"|rows) (?:[\w'-]+,? ){{0,8}}?(?:from|of|in|inside) {_FILE}"
    r"|\b(?:writ(?:es?|ing|ten)|saves?|saving|stores?|exports?|outputs?|outputting|appends?|dumps?"
    rf"|logs?|prints?) (?:[\w'`-]+,? ){{0,10}}?(?:to|into|in|as|onto) {_FILE}"
    r"|\b(?:opens?|opening|reads?|reading|creates?|creating|parses?|deletes?|renames?|copies|copy"
    rf"|compress\w*|modif\w+|process(?:es)?|load|upload\w*|scans?|downloads?|edits?|merges?) {_FILE}"
    r"|\bfile ?(?:path|name|handle|object|descriptor)s?\b(?=[^.\n]{0,80}\b(?:argument|parameter|input"
    r"|given|as|and returns?|takes?))"
    r"|\b(?:takes|accepts|given|receives) (?:a|the) (?:path|filename|file name|file path|directory)\b",
    re.IGNORECASE,
)
FILE_CALLS = re.compile(
    r"\bfreopen\b|\bopen\s?\(\s?(?:[\"'fr]|path\b|file|\.\.\.|…|sys\.argv|name)|\bopen\(\)"
    r"|\bwith open\b|\bpd\.read_csv|\bread_csv\b|\bcsv\.(?:reader|writer|DictReader)|\bjson\.(?:load"
    r"|dump)\(|\bos\.(?:listdir|walk|remove|rename|path)\b|\bfile\.(?:read|write)|\bfopen\b"
    r"|\bifstream\b"
    r"|\b(?:pathlib|shutil)\b|\.readlines?\(\)(?<!stdin\.readline\(\))(?<!stdin\.readlines\(\))"
)
NAMED_FILES = re.compile(
    r"\b(?:input|output|data|results?|read|from|into|to|in) (?:is |are |will be )?(?:the )?(?:given "
    r"|read |written |stored |contained |found |saved )?(?:in|from|to|into)?\s?(?:the )?(?:text "
    r"|input |output |data |csv )?(?:file )?(?:named |called )?[`'\"“]?(?:\w+\.(?:txt|csv|in|out|dat"
    r"|INP|OUT))\b|\b(?:input|output) file:? ?[`'\"“]?\w+\.(?:txt|in|out|csv|dat|INP|OUT)\b",
    re.IGNORECASE,
)
STANDARD = re.compile(r"\b(?:stdin|stdout|standard (?:input|output))\b", re.IGNORECASE)

NETWORK = re.compile(
    r"\b(?:send|make|issue|perform|sends|makes|using|use|handle|accept|via|through)\w* (?:an? |the "
    r"|async\w* |parallel )?(?:\w+ )?(?:https?|get|post|put|rest|api|ajax)(?: get| post)? (?:requests?"
    r"|calls?)\b|\bhttps? (?:get|post|requests?|client|server|endpoint|response)s?\b|\b(?:rest|web"
    r"|graphql|soap)(?:ful)? (?:api|service|endpoint|server)s?\b"
    r"|\b(?:download|fetch|scrape|crawl|retrieve|get|pull|extract|load|read|request|access|open|upload"
    r"|visit)\w* (?:[\w'-]+ ){0,7}?(?:web ?pages?|web ?sites?|urls?|internet|the web|wikipedia|online"
    r"|(?:remote|web|ftp) (?:server|site)|html (?:page|content|source)|(?:the|a) page)\b"
    r"|\b(?:tcp|udp|web ?|raw |client |server |unix )sockets?\b|\bsockets? (?:programming|connection"
    r"|server|client|library|module|api)s?\b|\b(?:open|create|bind|using|use|with|over|listen on"
    r"|connect to) (?:an? |the )?sockets?\b"
    r"|\b(?:the |a |an )?(?-i:[A-Z][\w.]{1,30} ){1,3}API\b(?! (?:is|bool|int))|\b(?:web|public"
    r"|external|online|third[- ]party|weather|maps|openweathermap) api\b|\bapi (?:key|token|endpoint"
    r"|of the site)s?\b|\bweb ?(?:crawler|scraper|scraping|hook|server|client)s?\b|\b(?:chat|tcp|udp"
    r"|proxy|smtp|ftp|dns) (?:server|client)\b"
    r"|\bsend(?:s|ing)? (?:an? |the )?(?:\w+ )?e-?mails?\b|\b(?:smtp|ftp|ssh|imap|telnet|mqtt|grpc"
    r"|websockets?)\b|\bport (?:\d{2,5}|scanner)\b|\bping\w* (?:a|the|an|each) (?:\w+ )?(?:host|server"
    r"|ip|website)",
    re.IGNORECASE,
)
NETWORK_CALLS = re.compile(
    r"\burllib\b|\brequests\.(?:get|post|put|Session)|\bimport (?:requests|socket|http|aiohttp)\b"
    r"|\bsocket\.socket|\bhttp\.client|\baiohttp\b|\bBeautifulSoup\b|\bfetch\(|\b`requests` library"
    r"|\brequests (?:library|module)\b"
)
AS_TEXT = re.compile(r"\b(?:string|text|log lines?|simulat\w+|representing|format of|header)\b", re.IGNORECASE)

INTERACTIVE = re.compile(
    r"\bthis (?:is|problem is) (?:an )?interactive\b|\binteractive (?:problem|task|protocol|judge|mode"
    r"|version|question)s?\b|\binteract(?:s|ing)? with (?:the|a|our|your|an) (?:\w+['’]?s? )?(?:judge"
    r"|grader|interactor|jury|system|program|checker|testing|library|oracle|user|server|device)\b"
    r"|\bthe interactor\b|\binteractor\b"
    r"|\bflush(?:ing|es)? (?:the |your |standard )*(?:output|stdout|buffer|stream|standard output|std"
    r"|cout|after)|\b(?:fflush|stdout\.flush|cout\.flush|std::endl|System\.out\.flush)\b"
    r"|\bforget to flush\b|\boutput (?:is|be|was) flushed|\bflush (?:it|after|every|each)\b"
    r"|\bperform (?:the )?flush\b"
    r"|\bask (?:the )?(?:judge|jury|interactor|grader|system|oracle)\b|\bask(?:ing)? (?:at most"
    r"|no more than|up to|not more than|more than) [^.\n]{0,24}(?:quer(?:y|ies)|questions?)\b"
    r"|\bthe (?:judge|jury|grader|interactor|system|jury's program) (?:will )?(?:responds?|repl(?:y"
    r"|ies)|answers?)\b"
    r"|\b(?:make|use|perform|submit|send) (?:at most|no more than|up to"
    r"|not more than) [^.\n]{0,24}quer(?:y|ies)\b(?=.{0,200}\b(?:hidden|guess|respon|answer)) ?"
    r"|\bpre-?defined API\b|\byou are given an API\b|\bgiven (?:a|an) (?:helper )?(?:API"
    r"|api) (?:function )?[`'\"]?(?:bool|int|function|\w+\()",
    re.IGNORECASE,
)
NOT_INTERACTIVE = re.compile(
    r"\bnot (?:an? )?interactive\b|\bno need to flush\b|\bnon-?interactive\b|\b(?:do not|don't|needn't"
    r"|no need to) (?:need to )?flush\b|\bhacks?\b.{0,30}\binteractive\b",
    re.IGNORECASE,
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
FILE_WORDS = (
    "file",
    ".txt",
    ".csv",
    ".in",
    ".out",
    ".json",
    ".dat",
    ".log",
    ".xml",
    "directory",
    "path",
    ".y",
    ".md",
    ".p",
)
FILE_CALL_WORDS = ("open", "csv", "json.", "os.", "file.", "ifstream", "pathlib", "shutil", ".readline")
NETWORK_WORDS = tuple(
    """
    http request api ajax web url internet wikipedia online server website html page socket mail
    smtp ftp ssh imap telnet mqtt grpc ping
    """.split()  # noqa: SIM905
)
NETWORK_CALL_WORDS = ("urllib", "requests", "socket", "http", "aiohttp", "soup", "fetch(")
INTERACTIVE_WORDS = ("interact", "flush", "ask", "jury", "judge", "grader", "quer", "api", "endl", "the system")
LANGUAGE_NAMES = re.compile(_LANGUAGE + r"|\b(?:C|R|Go|D)\b|```|~~~")


def environment(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses what needs more than a plain Python: libraries, a GPU, a database, another language."""
    text = _text(draft)
    found = IMPORTS.search(text) if "import" in text or "from" in text else None
    if found is None and mentions(text, ENVIRONMENT_WORDS):
        found = _in_task(text, LIBRARIES, LIBRARIES_IN_CONTEXT, MACHINES, DATABASES, COMMANDS)
    if found is None and LANGUAGE_NAMES.search(text):
        found = _other_language(text)
    return f"needs {found[0].strip()[:60]}" if found else None


def file_io(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses reading or writing files."""
    text = _text(draft)
    found = FILE_CALLS.search(text) if mentions(text, FILE_CALL_WORDS) else None
    if found is None and mentions(text, FILE_WORDS):
        found = _in_task(text, FILES) or NAMED_FILES.search(text)
        if found and STANDARD.search(text) and not re.search(r"\.\w{2,4}\b", found[0]):
            found = None
    return f"uses files: {found[0].strip()[:60]}" if found else None


def network(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses using a network."""
    text = _text(draft)
    found = NETWORK_CALLS.search(text) if mentions(text, NETWORK_CALL_WORDS) else None
    if found is None and mentions(text, NETWORK_WORDS):
        found = _in_task(text, NETWORK)
    return f"uses a network: {found[0].strip()[:60]}" if found else None


def interactive(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses interaction with a judge."""
    text = _text(draft)
    found = INTERACTIVE.search(text) if mentions(text, INTERACTIVE_WORDS) else None
    if found is None or NOT_INTERACTIVE.search(text):
        return None
    return f"interactive: {found[0].strip()[:60]}"


def _text(draft: Draft) -> str:
    """The prompt with its code."""
    return squeezed(without_marks(draft.prompt))


def _in_task(text: str, *patterns: re.Pattern[str]) -> re.Match[str] | None:
    """The first of the patterns in a sentence that is about the program and not about the story."""
    if not any(pattern.search(text) for pattern in patterns):
        return None
    for sentence in sentences(text):
        for pattern in patterns:
            found = pattern.search(sentence)
            if found and TASK.search(sentence) and not NEGATED.search(sentence, 0, found.start()):
                return found
    return None


def _other_language(text: str) -> re.Match[str] | None:
    for sentence in sentences(text):
        found = OTHER_LANGUAGE.search(sentence) or OTHER_LANGUAGE_TAKEN.search(sentence)
        if found and not WITH_PYTHON.search(sentence) and not NEGATED.search(sentence, 0, found.start()):
            return found
    return None
