# ruff: noqa: SIM905 - word lists read better as text
"""Word lists and small random-value makers used by the task generator.

Every list is split by `split()` into a training part and a held-out part, so that the evaluation
can use names, cities and words which never stood in the training text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

NAMES_EN = (
    "Anna Boris Clara David Emma Frank Grace Henry Irene Jack Karen Leo Mary Nina Oscar Paul "
    "Quinn Rose Sam Tina Victor Wendy Alice Bob Carol Dan Eva Fred Gina Hugo Ivan Julia Kevin "
    "Laura Mark Nora Oliver Peter Rita Simon Tom Ursula Vera Walter Zoe Adam Bella Chris Diana "
    "Eric Fiona George Helen Ian Jane Kate Lucy Max Nick Olga Pam Robert Sara Tim Una Vince "
    "Martin Sofia Lily Noah Ruth Ella Owen Ivy Ben Amy Hannah Louis Marco Elsa Dora Felix"
).split()
NAMES_RU = (
    "Анна Борис Вера Глеб Дарья Егор Жанна Захар Инна Кирилл Лариса Максим Нина Олег Полина "
    "Роман Света Тимур Ульяна Фёдор Юлия Яков Алиса Богдан Виктор Галина Денис Елена Иван "
    "Карина Леонид Марина Никита Оксана Раиса София Тарас Антон Вадим Герман Диана Ева Зоя "
    "Игорь Клара Лидия Михаил Надя Осип Пётр Римма Степан Таня Эмма Юрий Яна Алексей Варвара "
    "Георгий Дмитрий Ирина Ксения Людмила Николай Ольга Руслан Сергей Татьяна Наталья Арсений "
    "Мария Катя Саша Артём Илья Настя Маша Лена Оля Соня Лиза"
).split()
CITIES_EN = (
    "Paris London Berlin Madrid Rome Vienna Oslo Prague Lisbon Dublin Athens Warsaw Tokyo Cairo "
    "Boston Denver Austin Chicago Dallas Seattle Toronto Sydney Delhi Lima Quito Havana Geneva "
    "Milan Naples Munich Hamburg Lyon Porto Riga Tallinn Minsk Kyiv Moscow Kazan Samara Perm Omsk "
    "Tomsk Sochi Tver Baku Yerevan Astana Helsinki Bergen Leeds York Bristol Oxford"
).split()
CITIES_RU = (
    "Москва Казань Самара Пермь Омск Томск Сочи Тверь Тула Рязань Калуга Уфа Курск Орёл Псков "
    "Вологда Киров Пенза Саратов Ижевск Тюмень Иркутск Чита Якутск Мурманск Выборг Сургут Анапа "
    "Минск Рига Париж Лондон Берлин Мадрид Рим Вена Осло Прага Лиссабон Афины Варшава Токио Каир "
    "Бостон Баку Ереван Астана Хельсинки Женева Милан"
).split()
COLORS_EN = "red blue green yellow black white orange purple pink brown gray silver gold".split()
COLORS_RU = "красный синий зелёный жёлтый чёрный белый серый розовый голубой золотой".split()
FOODS_EN = "soup pizza rice pasta salad bread cheese fish cake pie honey plums beans".split()
FOODS_RU = "суп пицца рис паста салат хлеб сыр рыба торт пирог мёд плов борщ каша".split()
PETS_EN = "cat dog fox owl parrot hamster rabbit turtle horse goat duck crow snake mouse".split()
PETS_RU = "кот пёс лис филин попугай хомяк кролик ёж конь козёл гусь ворон уж енот".split()
MONTHS_EN = (
    "January February March April May June July August September October November December"
).split()
MONTHS_RU = (
    "января февраля марта апреля мая июня июля августа сентября октября ноября декабря"
).split()
NOUNS_EN = (
    "apple river table window stone garden lamp bridge cloud paper forest mirror bottle basket "
    "candle pencil guitar blanket hammer island ladder market needle ocean pillow rocket shadow "
    "ticket valley wagon anchor button castle dragon engine feather glove harbor jacket kettle "
    "lemon mountain napkin orange piano radio saddle tower umbrella violin whistle yard zebra "
    "banana cherry grape melon peach pear plum carrot potato tomato onion milk sugar salt tea "
    "coffee book chair clock door house key knife letter map phone road ship star tree wall"
).split()
NOUNS_RU = (
    "яблоко река стол окно камень сад лампа мост облако бумага лес зеркало бутылка корзина свеча "
    "карандаш гитара молоток остров лестница рынок игла океан подушка ракета тень билет долина "
    "якорь кнопка замок дракон мотор перо гавань куртка чайник лимон гора рояль радио башня зонт "
    "скрипка свисток двор зебра банан вишня виноград дыня персик груша слива морковь картофель "
    "помидор лук молоко сахар соль чай кофе книга стул часы дверь дом ключ нож письмо карта "
    "телефон дорога корабль звезда дерево стена"
).split()
ADJ_EN = (
    "old new small big quiet loud bright dark cold warm slow quick green blue wooden empty heavy "
    "light round narrow wide soft hard clean dusty"
).split()
ADV_EN = "slowly quickly often never always today again quietly early late".split()
VERBS_EN = (
    "stands lies waits moves falls shines sleeps turns stays rests grows hangs works rolls"
).split()
PLACES_EN = (
    "drawer box kitchen garden office car bag cupboard attic basement hall bedroom library garage "
    "desk closet pocket suitcase fridge cellar"
).split()
THINGS_EN = (
    "key book phone map ring letter ticket camera wallet umbrella notebook hammer watch lamp "
    "passport charger pen hat mug guitar"
).split()
LOCKS_EN = "door safe garage office gate locker elevator garden vault hall studio attic".split()
ACCOUNTS_EN = "mail wifi server laptop bank archive router printer backup forum wiki cloud".split()
ADJ_RU = (
    "старый новый малый большой тихий громкий яркий тёмный холодный тёплый быстрый зелёный "
    "деревянный пустой тяжёлый лёгкий круглый узкий широкий мягкий"
).split()
MASC_RU = (
    "стол камень сад мост лес карандаш молоток остров рынок билет якорь замок мотор чайник лимон "
    "рояль зонт двор дом ключ нож телефон корабль"
).split()
VERBS_RU = "стоит лежит ждёт падает спит растёт висит работает молчит остаётся блестит".split()
ADV_RU = "медленно быстро часто всегда сегодня опять тихо рано поздно далеко".split()
PLACES_RU = (
    "ящике коробке кухне саду офисе машине сумке шкафу подвале коридоре спальне библиотеке гараже "
    "столе кармане чемодане холодильнике погребе рюкзаке кладовке"
).split()
ON_RU = frozenset({"кухне", "столе"})
THINGS_RU = (
    "ключ книга телефон карта кольцо письмо билет камера кошелёк зонт тетрадь молоток лампа "
    "паспорт ручка шапка кружка гитара фонарь флешка"
).split()
LOCKS_RU = "двери сейфа гаража офиса ворот шкафчика лифта сада хранилища студии чердака".split()
ACCOUNTS_RU = (
    "почты вайфая сервера ноутбука банка архива роутера принтера форума облака сайта"
).split()
IDENT = (
    "x y z a b n i j k name value count total size line text data item index key result left right "
    "width height limit batch token queue port host path model user score page rows cols"
).split()
FUNCS = "len sum max min load save print open parse read write split join sort run send".split()


def split(words: Sequence[str], heldout: bool) -> list[str]:
    """The training part of `words`, or its held-out part (every sixth word)."""
    return [w for i, w in enumerate(words) if (i % 6 == 5) == heldout]


def pick(rng: random.Random, words: Sequence[str], heldout: bool = False) -> str:
    """One random word of the wanted part of `words`."""
    part = split(words, heldout)
    return part[rng.randrange(len(part))]


HEADS_EN = (
    "b br bl c ch cl cr d dr f fl fr g gl gr h j k kn l m n p ph pl pr qu r s sc sh sl sm sn sp st "
    "str sw t th tr tw v w wh y z"
).split()
VOWELS_EN = "a a a e e e i i i o o o u u y ai ea ee ie oa oo ou".split()
TAILS_EN = ["", "", "", *"n r l s x t d m p k g b ck ll ss nd nt rt st ng sh th".split()]
HEADS_RU = (
    "б бр бл в вл г гр гл д др ж з зд к кр кл л м н п пр пл р с св ск сл см сн сп ст стр т тр ф фл "
    "х хл ц ч ш щ"
).split()
VOWELS_RU = "а а а е е е и и и о о о у у ы э ю я ё".split()
TAILS_RU = ["", "", "", *"н р л с т д м п к г в ж з й х ц ч ш ль нь рт ст нд".split()]


def syllables(rng: random.Random, lang: str, low: int = 2, high: int = 3) -> str:
    """A made-up lower-case word of `low` to `high` syllables; half of them plain, half wild."""
    en = lang == "en"
    count = rng.randint(low, high)
    if rng.random() < 0.4:
        heads, vowels = ("bdfgklmnprstvz", "aeiou") if en else ("бвгдзклмнпрст", "аеиоу")
        tails = ["", "", *("nrlsx" if en else "нрлст")]
        word = "".join(rng.choice(heads) + rng.choice(vowels) for _ in range(count))
        return word + rng.choice(tails)
    heads_, vowels_ = (HEADS_EN, VOWELS_EN) if en else (HEADS_RU, VOWELS_RU)
    tails_ = TAILS_EN if en else TAILS_RU
    word = "" if rng.random() < 0.85 else rng.choice(vowels_)
    for _ in range(rng.randint(1, count)):
        word += rng.choice(heads_) + rng.choice(vowels_) + rng.choice(tails_)
    return word


def noun(rng: random.Random, lang: str, heldout: bool = False) -> str:
    """A noun from the list, or (one in four in training) a made-up word."""
    if not heldout and rng.random() < 0.25:
        return syllables(rng, lang)
    return pick(rng, NOUNS_EN if lang == "en" else NOUNS_RU, heldout)


def identifier(rng: random.Random, heldout: bool = False) -> str:
    """A variable name from the list, or (one in five in training) a made-up one."""
    if not heldout and rng.random() < 0.2:
        return syllables(rng, "en")
    return pick(rng, IDENT, heldout)


def name(rng: random.Random, lang: str, heldout: bool = False) -> str:
    """A person's name: from the list, or (two in five) made up."""
    if rng.random() < 0.4:
        made = syllables(rng, lang).capitalize()
        if lang == "ru" and made[-1] in "еиоуыэюё":
            made += rng.choice("нрлс")
        return made
    return pick(rng, NAMES_EN if lang == "en" else NAMES_RU, heldout)


def genitive(noun: str) -> str:
    """The Russian genitive of a name, by its ending (enough for the names used here)."""
    stem, last = noun[:-1], noun[-1]
    if noun == "Пётр":
        return "Петра"
    if last == "а":
        return stem + ("и" if stem[-1] in "гкхжшчщ" else "ы")
    if last == "я":
        return stem + "и"
    if last in "йь":
        return stem + "я"
    return noun + "а"


def city(rng: random.Random, lang: str, heldout: bool = False) -> str:
    """A city: from the list, or (three in ten) made up."""
    if rng.random() < 0.3:
        return syllables(rng, lang).capitalize()
    return pick(rng, CITIES_EN if lang == "en" else CITIES_RU, heldout)


def digits(rng: random.Random, low: int = 3, high: int = 6) -> str:
    """A random digit string of `low` to `high` digits."""
    return "".join(rng.choice("0123456789") for _ in range(rng.randint(low, high)))


def code(rng: random.Random) -> str:
    """A code: mostly four digits, sometimes 3 to 6, sometimes letters, a dash and digits."""
    kind = rng.random()
    if kind < 0.5:
        return digits(rng, 4, 4)
    if kind < 0.8:
        return digits(rng)
    letters = "".join(rng.choice("ABCDEFGHKLMNPQRSTVWXYZ") for _ in range(rng.randint(1, 2)))
    return f"{letters}-{digits(rng, 2, 4)}"


def secret(rng: random.Random, lang: str, heldout: bool = False) -> str:
    """A password: a noun or a made-up word, often with digits behind it."""
    word = syllables(rng, lang) if rng.random() < 0.5 else noun(rng, lang, heldout)
    return word + (digits(rng, 1, 3) if rng.random() < 0.5 else "")
