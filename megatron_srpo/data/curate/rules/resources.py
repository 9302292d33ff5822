"""Programming tasks that use files, a network or an interactive judge."""

from __future__ import annotations

import re

from megatron_srpo.data.curate.draft import Draft
from megatron_srpo.data.curate.rules.rule import RuleSettings
from megatron_srpo.data.curate.rules.segments import mentions
from megatron_srpo.data.curate.rules.tasks import in_task, task_text

FILE_NAME = (
    r"[`'\"“]?[\w{}-]{1,40}\.(?:txt|csv|json|xml|in|out|dat|xlsx?|log|ya?ml|tsv|pdf|docx?|ini|md|html"
    r"|png|jpe?g|zip|pkl|parquet|bin)\b[`'\"”]?"
)

_FILE = (
    r"(?:(?:a |an |the |this |each |given |specified |its "
    rf"|your )?(?:[\w.-]+ ){{0,3}}(?:files?(?! ?(?:systems?|size|server|cabinet|s? of people))|spreadsheets?)\b"
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

STANDARD = re.compile(
    r"(?<!instead of )(?<!instead of the )(?<!not from )(?<!not to )(?<!rather than )(?<!rather than from )"
    r"\b(?:stdin|stdout|standard (?:input|output))\b",
    re.IGNORECASE,
)

PLAINLY_FILES = re.compile(
    r"\bname of a directory\b|\bdirector(?:y|ies) [^.\n]{0,40}\brecursively\b|"
    r"[(\[](?:input |output )?file:? [`'\"]?\w+\.\w{2,4}[`'\"]?[)\]]"
    r"|\b(?:stored|saved|kept|contained|written|given) in (?:a|an|the) (?:\w+ )?(?:file"
    r"|spreadsheet)\b[^.\n]{0,80}\b"
    r"(?:path|load|read|open|parse)"
    r"|[;:.]\s(?:first )?(?:load|open|read|parse) (?:the|this|that|each) (?:\w+ )?(?:file|spreadsheet)\b"
    r"|\b(?:write|save|export|print|append|log)s? (?:\w+ ){0,5}?(?:to|into) (?:a|the|another) (?:new )?"
    r"(?:text |csv |json |output )?file\b",
    re.IGNORECASE,
)

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

PLAINLY_NETWORK = re.compile(
    r"\bfrom (?:the |an? )?(?:web|internet|online|website)\b|\bon(?:line"
    r"| the internet) (?:\w+ )?(?:service|api|source)"
    r"|\bdownload\w* (?:\w+ ){0,4}?from (?:the|a|our|their) (?:\w+ )?(?:server|site|page|url)"
    r"|\b(?:over|via|through|using|with|from|query|queries|an?) (?:a |an |the )?(?:dns|ntp|rss|ssh"
    r"|snmp|ldap|udp|tcp)\b"
    r"|\brss feeds?\b|\b(?:scrape|crawl)(?:s|d|ing)?\b|\bping\w* (?:\w+ ){0,3}?(?:hosts?|servers?"
    r"|addresses|ips?)\b"
    r"|\blook(?:s|ing)? up [^.\n]{0,60}\b(?:dns|whois|host ?name)",
    re.IGNORECASE,
)

NETWORK_CALLS = re.compile(
    r"\burllib\b|\brequests\.(?:get|post|put|Session)|\bimport (?:requests|socket|http|aiohttp)\b"
    r"|\bsocket\.socket|\bhttp\.client|\baiohttp\b|\bBeautifulSoup\b|\bfetch\(|\b`requests` library"
    r"|\brequests (?:library|module)\b"
)

_JUDGE = r"(?:judge|jury|grader|checker|interactor|judging system|testing system)"

INTERACTIVE = re.compile(
    r"\bthis (?:is|problem is) (?:an )?interactive\b|\binteractive (?:problem|task|protocol|judge|mode"
    r"|version|question)s?\b|\binteract(?:s|ing)? with (?:the|a|our|your|an) (?:\w+['’]?s? )?(?:judge"
    r"|grader|interactor|jury|system|program|checker|testing|library|oracle|user|server|device)\b"
    r"|\bthe interactor\b|\binteractor\b"
    r"|\bflush(?:ing|es)? (?:the |your |standard )*(?:output|stdout|buffer|stream|standard output|std"
    r"|cout|after)|\b(?:fflush|stdout\.flush|cout\.flush|std::endl|System\.out\.flush)\b"
    r"|\bforget to flush\b|\boutput (?:is|be|was) flushed|\bflush (?:it|after|every|each)\b"
    r"|\bperform (?:the )?flush\b|\b(?:must|should|has to|needs to) be flushed\b|\b(?:and|then|to) flush\b"
    rf"|\bcommunicat\w+ (?:directly )?with (?:the|a|our|your) {_JUDGE}\b"
    rf"|\b{_JUDGE} (?:\w+ )?(?:has|holds|hides|keeps|picks|chooses|chose|thinks of"
    rf"|fixes) (?:\w+ ){{0,3}}?(?:secret|hidden"
    r"|unknown)\b"
    rf"|\b{_JUDGE} (?:then )?(?:tells|swaps|prints|gives|returns|reports|answers|replies|responds"
    rf"|informs|reveals)\b"
    rf"|\bquestions? to (?:the|a) {_JUDGE}\b|\b(?:answers?|repl(?:y|ies)|responses?|characters?"
    rf"|lines?) from the {_JUDGE}\b"
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

FILE_WORDS = (
    "file",
    "spreadsheet",
    ".xls",
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
    smtp ftp ssh imap telnet mqtt grpc ping dns ntp rss scrape crawl download
    """.split()  # noqa: SIM905
)

NETWORK_CALL_WORDS = ("urllib", "requests", "socket", "http", "aiohttp", "soup", "fetch(")

INTERACTIVE_WORDS = (
    "interact",
    "flush",
    "ask",
    "jury",
    "judge",
    "grader",
    "checker",
    "quer",
    "api",
    "endl",
    "the system",
)


def file_io(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses reading or writing files."""
    text = task_text(draft)
    found = FILE_CALLS.search(text) if mentions(text, FILE_CALL_WORDS) else None
    if found is None and mentions(text, FILE_WORDS):
        found = PLAINLY_FILES.search(text) or in_task(text, FILES) or NAMED_FILES.search(text)
        if found and STANDARD.search(text) and not re.search(r"\.\w{2,4}\b", found[0]):
            found = None
    return f"uses files: {found[0].strip()[:60]}" if found else None


def network(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses using a network."""
    text = task_text(draft)
    found = NETWORK_CALLS.search(text) if mentions(text, NETWORK_CALL_WORDS) else None
    if found is None and mentions(text, NETWORK_WORDS):
        found = PLAINLY_NETWORK.search(text) or in_task(text, NETWORK)
    return f"uses a network: {found[0].strip()[:60]}" if found else None


def interactive(draft: Draft, settings: RuleSettings) -> str | None:
    """Refuses interaction with a judge."""
    text = task_text(draft)
    found = INTERACTIVE.search(text) if mentions(text, INTERACTIVE_WORDS) else None
    if found is None or NOT_INTERACTIVE.search(text):
        return None
    return f"interactive: {found[0].strip()[:60]}"
