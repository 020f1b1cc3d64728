"""What two neighbouring characters of a text cost in tokens: the weights behind `token_text.weigh`.

Characters fall into classes: each ASCII character is its own, others share one where kind and price are the same.
The weight of a pair is what the right one adds after the left one. Scripts other than the Latin and the Cyrillic
need no pairs: a character costs what it costs alone, one token if both vocabularies have it, two if they have the
first two of its three bytes (which 64 characters in a row share), else its bytes.
"""

# ruff: noqa: RUF001 - the tables hold characters of many scripts

from __future__ import annotations

import sys
from collections.abc import Iterator

UNIT = 32
"""What one token is in these weights."""

_ASCII = 128
_BYTE = 256
_LATIN = "abcdefghijklmnopqrstuvwxyz"
_SIGNS = [code for code in range(_ASCII) if not chr(code).isalpha()]


def tables() -> tuple[str, list[int], bytes]:
    """For `str.translate`, the class of every code point; the weight of every pair of classes; the price of each class.

    A pair's place is the number that its two bytes are in this machine's byte order. Made in a few milliseconds.
    """
    classes, members = _classify()
    weights = [0] * _BYTE**2
    rows: dict[Member, list[int]] = {}
    for left, (kind, _, old) in enumerate(members):
        row = rows.get((kind, 0, old)) or rows.setdefault((kind, 0, old), _row((kind, 0, old), members))
        if sys.byteorder == "little":
            weights[left : left + _BYTE * len(row) : _BYTE] = row
        else:
            weights[left * _BYTE : left * _BYTE + len(row)] = row
    return classes.decode("latin-1"), weights, bytes(price for _, price, _ in members).ljust(_BYTE, b"\0")


Member = tuple[str, int, str]
"""One class: the kind of its characters, what each costs by itself, and the character where there is only one."""


def _classify() -> tuple[bytearray, list[Member]]:
    """The class of every code point, and what the classes are."""
    members = [(_ascii_kind(chr(code)), 0, chr(code)) for code in range(_ASCII)]
    classes = bytearray(range(_ASCII)) + bytes(sys.maxunicode + 1 - _ASCII)
    numbers: dict[tuple[str, int], int] = {}
    for first, last, kind, price in _prices():
        known = kind or members[classes[first]][0]
        number = numbers.setdefault((known, price), len(members))
        if number == len(members):
            members.append((known, price, ""))
        classes[first : last + 1] = bytes([number]) * (last + 1 - first)
    return classes, members


def _prices() -> Iterator[tuple[int, int, str, int]]:
    """Stretches of code points with their kind and price, later ones over earlier; no kind: the one already there."""
    yield from _RANGES
    yield from ((ord(first), ord(first) + 63, "字", 64) for first in _BLOCKS)
    for characters, digits in _LETTERS:
        for character, price in zip(characters, _costs(digits), strict=True):
            yield ord(character), ord(character), "", price
    for price, characters in _ONE_TOKEN:
        for character in characters:
            yield ord(character), ord(character), "", price


def _ascii_kind(character: str) -> str:
    if character.isalnum():
        return "0" if character.isdigit() else "a" if character.islower() else "A"
    if character in _KINDS:
        return character
    return next((kind for kind, others in _ALSO.items() if character in others), "\0")


def _row(left: Member, members: list[Member]) -> list[int]:
    """What each class costs after `left`."""
    kind, _, old = left
    after = dict(zip(_KINDS, _costs(_AFTER[_KINDS.index(kind)]), strict=True))
    row = [after[right] + price for right, price, _ in members]
    inside = kind in "aA"
    begin, end = (_JOIN[_LATIN.index(old.lower())], _END[_LATIN.index(old.lower())]) if inside else (_BEGIN, "0")
    for letter, cost in zip(_LATIN, _costs(begin), strict=True):
        row[ord(letter)] += cost
        row[ord(letter.upper())] += cost
    for code in _SIGNS if inside else ():
        row[code] += int(end, 36)
    if old and kind in _REPEAT:
        row[ord(old)] = int(_REPEAT[kind], 36)
    return row


def _costs(digits: str) -> list[int]:
    return [int(digit, 36) for digit in digits]


# --- the tables: digits of base 36, each 1 / UNIT of a token ----------------------------------------------------------

_KINDS = 'aA0 \n\r\t\0"()_-/.,:=#éя字😀'
"""Kinds of characters by example: small letter, capital, digit, white space, control, punctuation, other scripts."""

_ALSO = {'"': "'`", "(": "[{<", ")": "]}>", "/": "\\", ":": ";", "=": "+*|", "#": "@$%^~!?&"}

_AFTER = (
    "0ha07zdtbb64bi428am1j0j",  # a
    "00ahasiiloigcz2smmy3jj3",  # A
    "srbyzwxxszwzzzwzzzwjjj8",  # 0
    "43z1gjwx92pnbnzzj5ij0j0",  # space
    "zzxt2zlzufvzrfvzzrdjjj8",  # \n
    "zwzu1wzwqolstomumnzjjj8",  # \r
    "gsz82l2xzzzzsztvzzzjjj8",  # \t
    "npzwzvwzymyzpvxnouxjjj8",  # \0
    "uvwm1wzkzz5zrzj00zzjjj8",  # "
    "llztgrzz7onzidzxzwzjjj8",  # (
    "zzz70zzstgfzszj23zzjjj8",  # )
    "8bzw7rzzrnzmcfvbztzjjj8",  # _
    "9jwz7wzzyztkmfn7zszjjj8",  # -
    "dfrjgozv0xumstzwzozjjj8",  # /
    "7izz0rzzpky0zamzwoejjj8",  # .
    "nulvlrzlopzwqrymxzzjjj8",  # ,
    "qtxc0mtvvkzzp0zzzvwjjj8",  # :
    "vwxs7zzrkzqzwvzvzzzjjj8",  # =
    "swzezvzuznszzzztytwjjj8",  # #
    "jrvsdmjjz0zmjdzcznm4j53",  # é
    "zhzjymjnl4rieghm0m0j8j3",  # я
    "v3zj8mjuz04uzed20o80060",  # 字
    "zje0imjmmmmmmmgmmmm3327",  # 😀
)
"""What a character costs for its kind (column) after one of a kind (row), both in the order of `_KINDS`."""

_REPEAT = dict(zip('\0"()_-/.,:=#', "ygff10607358", strict=True))
"""What a sign costs that repeats the one before it."""

_JOIN = (
    "qd3iwwcwnqw3i4whw873gltrth",  # a
    "eejratwwe8s4wwdwbh3p9wwn3w",  # b
    "jw8o3wwmgw6bjw3qwdj3rownnb",  # c
    "8jlp3spw8wmlus6rwwfvwlqrow",  # d
    "gk33j8qwipwam3ii933godl9si",  # e
    "avwvc6ww5wwiwwcwr9wb6wwkaw",  # f
    "rqow5wfgjwwhvbfkvccrtwwweo",  # g
    "3www3wum3onlgt6wthlcvwrllk",  # h
    "oc3a7g9wwvwab33pww34w7wwwl",  # i
    "gpwvgqwrwglwwojwqwbwowwwwv",  # j
    "ewwpkwjqdoiwiwowvqbwlwvwjs",  # k
    "awuc3gss3wqdqw3rstaabhww3w",  # l
    "4iof3wtwenwhgwb3ww7wuwwtgo",  # m
    "ht739ecmoipuswb4ws33jbwwit",  # n
    "wjb8w9fwhotf33idw3khca9wvr",  # o
    "arot3uwqktq3mt5gw3668www3s",  # p
    "wwwwwswpqwwqkqwrgmqw6roguv",  # q
    "5qch3wdm8w5n6b3ows8ahmkw38",  # r
    "owdw3uwqcwrmrwaftwf3drpude",  # s
    "ivqn8wv34wnskw5cw8nfhrhr4w",  # t
    "le9d7qmuluw988smo855wuwwrw",  # u
    "3wws3wvw9swtrugwwwwwwgwmww",  # v
    "bwwwrwlg3wwuwdhwujowwwfrhj",  # w
    "jwimjwwwowvmkwqisphcwwp4dw",  # x
    "pwwwwwwwwwruuw9owwgswurvkq",  # y
    "cswufwwwwwvwwwhswwwufuiw5g",  # z
)
"""What a letter (column, a to z) adds after a letter (row) in one word, whatever their case."""

_BEGIN = "340ejah88bjfeh30de44ba2fjg"
"""What a letter adds that begins a word."""

_END = "jji0052bjj885chjj006jjje0i"
"""What a letter adds to the sign after it."""

_RANGES = (
    (0x80, 0x7FF, "字", 64),  # two bytes
    (0x800, 0xFFFF, "字", 96),  # three
    (0x10000, 0x10FFFF, "字", 128),  # four
    (0xC0, 0x24F, "é", 64),  # Latin
    (0x300, 0x33F, "é", 64),  # accents to combine
    (0x1E80, 0x1EFF, "é", 64),  # Latin of Vietnamese
    (0x370, 0x7FF, "я", 64),  # Greek, Cyrillic, Armenian, Hebrew, Arabic, ...
    (0x900, 0x9FF, "字", 64),  # Devanagari, Bengali
    (0xA00, 0xAFF, "字", 64),  # Gurmukhi, Gujarati
    (0xB80, 0xDFF, "字", 64),  # Tamil to Sinhala
    (0xE00, 0xEBF, "字", 64),  # Thai, some of Lao
    (0xF00, 0xF7F, "字", 64),  # Tibetan
    (0x1000, 0x103F, "字", 64),  # Burmese
    (0x10C0, 0x10FF, "字", 64),  # Georgian
    (0x1780, 0x17FF, "字", 64),  # Khmer
    (0x2000, 0x20BF, "字", 64),  # punctuation, currencies
    (0x2100, 0x21BF, "字", 64),  # letterlike, arrows
    (0x2200, 0x227F, "字", 64),  # mathematics
    (0x2500, 0x267F, "字", 64),  # boxes, shapes, signs
    (0x2700, 0x27BF, "字", 64),  # dingbats
    (0x3000, 0x30FF, "字", 64),  # kana
    (0x3140, 0x317F, "字", 64),  # jamo
    (0xFF00, 0xFFFF, "字", 64),  # full width
    (0x4E00, 0x9FFF, "字", 96),  # Han
    (0xAC00, 0xD7A3, "字", 96),  # Hangul
    (0x1D000, 0x1DFFF, "字", 96),  # music, mathematics
    (0x1F000, 0x1FFFF, "😀", 96),  # emoji
    (0x1F480, 0x1F4BF, "😀", 64),
    (0x1F600, 0x1F63F, "😀", 64),  # faces
)
"""First and last code point, kind, price."""

_BLOCKS = (
    "一乀亀什伀佀侀俀倀偀僀兀冀净刀剀劀勀匀區厀叀吀呀哀唀啀喀囀圀址埀堀塀墀壀夀奀姀孀宀寀尀局岀巀帀幀庀廀开彀往忀"
    "怀恀惀愀戀所技拀挀捀掀揀摀撀攀敀斀旀昀晀暀曀最杀枀柀栀桀检楀欀歀殀毀氀汀沀泀洀浀涀淀渀湀満滀漀灀焀爀牀玀珀琀"
    "甀畀癀皀盀眀着础碀礀祀禀秀稀穀窀竀笀筀简節籀粀紀絀纀绀缀罀羀耀聀肀胀臀舀艀芀苀茀荀菀萀虀血袀裀覀觀言詀誀譀讀"
    "诀谀豀貀賀贀赀趀跀轀辀迀退遀邀郀釀錀钀铀销镀門闀阀陀隀雀需靀頀顀颀飀馀驀黀龀가걀검곀굀귀글김낀넀녀늀닀덀돀됀"
    "듀딀란럀렀례룀륀릀맀멀몀므밀벀변부븀삀샀섀셀솀슀싀앀얀엀였와욀움윀은잀저준즀지찀첀춀칀큀타턀튀팀핀혀홀"
)
"""The first of 64 Han or Hangul that share two bytes which both vocabularies have."""

_LETTERS = (
    ("абвгдежзийклмнопрстуфхцчшщъыьэюяёєіїўґ", "fw6zc6dy6oqht667666uzzznzzzzczq7zzzzzz"),
    (
        (
            "\u0623\u0625\u0627\u0628\u0629\u062a\u062b\u062c\u062d\u062e\u062f\u0630\u0631\u0632\u0633\u0634\u0635"
            "\u0636\u0637\u0638\u0639\u063a\u0641\u0642\u0643\u0644\u0645\u0646\u0647\u0648\u0649\u064a\u064e\u064f"
            "\u0650\u0651\u0652\u067e\u06a9\u06af\u06cc"
        ),
        "deaflhvltpqxjpmjzxfyqucfzdfrmoxspc6zqzozv",
    ),
)
"""Letters of Russian and Arabic, which are joined often, and the price of each."""

_ONE_TOKEN = (
    (
        29,
        (
            "ÀÁÂÃÄÇÉÍÎÐÑÓÖ×ÚÜßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýāăąćčĐđēęěğīİıłńōőœřśşšţťūůűźżžơưșț\u0300\u0301ạảấầẩ"
            "ậắặếềểệỉịọỏốồổỗộớờởợụủứửữự"
        ),
    ),
    (26, "ЂАБВГДЕЗИКЛМНОПРСТУФЦЧЭЯ"),
    (27, "άέήίαβγδεηθικλμνοπρςστυφχωό"),
    (27, "\u05d0\u05d1\u05d3\u05d4\u05d5\u05d7\u05d9\u05dc\u05de\u05e0\u05e2\u05e8\u05e9\u05ea"),
    (32, "،"),
    (
        27,
        ("\u0902कतनपमरलसह\u093e\u093f\u0940\u0941\u0947\u094b\u094dনর\u09be\u09bf\u09c7\u09cd\u0bbf\u0bc1\u0bcd\u0d4d"),
    ),
    (32, "กขคงจชณดตถทนบปผพมยรลวสหอะ\u0e31าำ\u0e34\u0e35\u0e37\u0e38\u0e39เแใไ\u0e47\u0e48\u0e49\u0e4c"),
    (
        28,
        (
            "あいうえおかがきくけこごさざしじすせそただちっつてでとどなにのはばまみめもやよらりるれろわをんアィ"
            "イウェエオカキクグコサシジスズセタダチッテデトドナニバパビピフブプペポマムメャュョラリルレロン・ー"
        ),
    ),
    (
        32,
        (
            "\u0080\u0092\u00a0¡¢£¤¥¦§¨©ª«¬\u00ad®¯°±²³´µ¶·¹º»¼½¾¿əɵ\u17b6\u200b\u200c\u200e‐‑–—―‘’‚“”„†•…‰′″›※"
            "₂€™←↑→↓−─━│═║╗╝█░■►●★☆☴♀♥♪✔⠀\u3000、。《》「」『』【】〜\ufe0f\ufeff！（），－．／０１２３４５６７"
            "８９：；＞？＾～･￥"
        ),
    ),
    (
        22,
        (
            "가간값개거게결경고공과구그글기나내는능니다당대도동되된드든들디라래러력로록료류른를름리만메면명목문"
            "미버번보복부분비사산상색생서성세션소수스습시식신아야어에여열오와요용우운원위으은을음의이인일임입자"
            "작장재적전정제져조주지진째체출치크태터턴트튼하한할함해호화환회"
        ),
    ),
    (
        28,
        (
            "一万三上下不与专业东两个中串为主么义之也书了事二于五些交产享京人亿今介从他付代以们件价任份企优会传"
            "但位体何余作你使例供価保信修倍值停像元先入全公共关其具内円册再写出击分列则初利别到制前力功加务动動"
            "包化北区十午华单南即历原去县参及友反发取变口只可台右号司合同名后向否含听启告员周命和品哈商問器四回"
            "因国图土在地场址型城基報場填增声处备复外多大天失头女好如始子字存学安宋完定实审客家容密对导将小少尔"
            "就局展山岁州工左已市布常平年并广序库应店度建开异式引张当录形影径待後得微心必志态思性总息您情意感成"
            "我或户所手打找技投报拉持指按换据排接推提播支收改放政效数整文料断新方族无日时明易星是時景更最月有服"
            "期木未本机权束条来板构析果查标样核格案检模次款止正此步歳段每比民気水求江汽没治法注活流海消清游源火"
            "点無然片版物特率环现球理生用由电男画界番登的监目直相省看県真知码确示社票私种科秒称移程稍税稿空立站"
            "章端笑符第等签简算管箱米类系素索约级线组经结给络统编网置美老考者而联能自至色节英藏行表装西要見见规"
            "视角解言計記話読计认议记论设证评试话询该详语误说请读调象责败账货购费资起超路身车转软载辑输达过运近"
            "还这进连述退送选通速造連道邮部都配释里重量金钟钮链销错键长開間関门闭问间队阳陆限院除雅集雷需非面音"
            "页项预频题额首验高黑"
        ),
    ),
)
"""Characters that are one token in both vocabularies; less is asked where neighbours are joined."""
