"""The words from which the example corpus and the example task are written."""

NAMES = (
    "Anna Boris Carla David Elena Felix Greta Hugo Irene Jonas Karin Leon Maria Nils Olga Pedro "
    "Quinn Rosa Stefan Tania Ulrich Vera Walter Xenia Yusuf Zoe Amir Bianca Cedric Dora Emil "
    "Fatima Goran Helga Ivan Julia Kofi Lucia Marek Nadia Oscar Paula Ravi Sofia Tomas Ursula "
    "Viktor Wanda Yara Zeno"
).split()

TOWNS = (
    "Porto Lyon Turin Bergen Gdansk Malaga Ghent Bremen Graz Split Tampere Aarhus Cork Leeds "
    "Basel Trieste Nantes Bilbao Utrecht Krakow Brno Kaunas Tartu Varna Patras Bologna Dresden "
    "Sibiu Maribor Linz"
).split()

JOBS = (
    "baker teacher driver nurse painter farmer engineer gardener writer plumber pilot cook "
    "dentist tailor librarian"
).split()

COLOURS = "red blue green yellow black white grey brown orange purple".split()

ADJECTIVES = "large small new cheap heavy light plain sturdy round wooden".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

ITEMS = {
    "lamp": "lamps",
    "chair": "chairs",
    "table": "tables",
    "desk": "desks",
    "mirror": "mirrors",
    "carpet": "carpets",
    "shelf": "shelves",
    "box": "boxes",
    "bench": "benches",
    "brush": "brushes",
    "clock": "clocks",
    "kettle": "kettles",
    "basket": "baskets",
    "blanket": "blankets",
    "pillow": "pillows",
    "bottle": "bottles",
    "knife": "knives",
    "fork": "forks",
    "spoon": "spoons",
    "plate": "plates",
    "bowl": "bowls",
    "cup": "cups",
    "ladder": "ladders",
    "hammer": "hammers",
    "drill": "drills",
    "bucket": "buckets",
    "rope": "ropes",
    "battery": "batteries",
    "cable": "cables",
    "screen": "screens",
    "keyboard": "keyboards",
    "printer": "printers",
    "camera": "cameras",
    "phone": "phones",
    "radio": "radios",
    "candle": "candles",
    "curtain": "curtains",
    "towel": "towels",
    "scarf": "scarves",
    "jacket": "jackets",
}
"""Singular to plural."""

NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
"""Number words; ``NUMBERS[n - 1]`` is the word for ``n``."""

SMALL_WORDS = (
    "the and of to in is was for on that with as at by from this have not are but what all were "
    "when we there can an your which their said if do will each about how up out them then she "
    "many some so these would other into has more her two like him see time could no make than "
    "first been its who now people my made over did down only way find use may water long little "
    "very after words called just where most know get through back much before go good new write "
    "our used me man too any day same right look think also around another came come work three "
    "word must because does part even place well such here take why things help put years "
    "different away again off went old number great tell men say small every found still between "
    "name should home big give air line set own under read last never us left end along while "
    "might next sound below saw something thought both few those always looked show large often "
    "together asked house don't world going want school important until form food keep children "
    "feet land side without boy once animals life enough took four head above kind began almost "
    "live page got earth need far hand high year mother light parts country father let night "
    "following picture being study second eyes soon times story boys since white days ever paper "
    "hard near sentence better best across during today others however sure means knew it's try "
    "told young miles sun ways thing whole hear example heard several change answer room sea "
    "against top turned learn point city play toward five using himself usually money total cost "
    "price dollars hours minutes week month half twice percent apples eggs books sold bought"
).split()
"""Common English words, so that the tokenizer has merges for text that is not about orders."""
