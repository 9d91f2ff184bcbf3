"""presidio-analyzer's pattern recognizers on the texts of standard input; what they find, and in what CPU time.

Its engine would want a language model; the recognizers need none and are called one after the other, as the engine
does. Runs in an environment of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence

import presidio_analyzer.predefined_recognizers as predefined
import stdnum
import tldextract
from presidio_analyzer import LocalRecognizer
from presidio_analyzer.nlp_engine import NlpArtifacts

# Its list of top-level domains as installed, not fetched.
tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

COUNTRIES = {
    "ES": (predefined.EsNifRecognizer, predefined.EsNieRecognizer),
    "FI": (predefined.FiPersonalIdentityCodeRecognizer,),
    "IT": (predefined.ItFiscalCodeRecognizer,),
    "PL": (predefined.PlPeselRecognizer,),
    "SE": (predefined.SePersonnummerRecognizer,),
    "US": (predefined.UsSsnRecognizer,),
}
# The same numbers by python-stdnum: module and how it is written there.
STDNUM = {
    "NO": ("no.fodselsnummer",),
    "SE": ("se.personnummer",),
    "FI": ("fi.hetu",),
    "ES": ("es.dni", "es.nie"),
    "IT": ("it.codicefiscale",),
    "FR": ("fr.nir",),
    "PL": ("pl.pesel",),
    "BE": ("be.nn",),
}


def recognizers(regions: Sequence[str] | None) -> dict[str, list[LocalRecognizer]]:
    """By kind of identifier; telephone numbers of these regions, or of those that it takes by default."""
    phone = predefined.PhoneRecognizer(**({"supported_regions": regions} if regions else {}))
    return {
        "email": [predefined.EmailRecognizer()],
        "phone": [phone],
        "national_id": [make() for makers in COUNTRIES.values() for make in makers],
        "iban": [predefined.IbanRecognizer()],
        "card": [predefined.CreditCardRecognizer()],
    }


def found(each: Iterable[LocalRecognizer], text: str) -> bool:
    """Whether any of them, at any score, says that there is something."""
    nothing = NlpArtifacts([], [], [], [], None, "en")
    return sum(len(one.analyze(text, one.supported_entities, nothing)) for one in each) > 0


def is_valid(country: str, value: str) -> bool:
    """What python-stdnum says of a national id."""
    return any(stdnum.get_cc_module(*name.split(".")).is_valid(value.replace(".", "")) for name in STDNUM[country])


def main() -> None:
    """Take `positives` (kind, group, value, text) and `negatives` (texts)."""
    order = json.load(sys.stdin)
    positives, negatives = order["positives"], order["negatives"]
    usual = [one for each in recognizers(None).values() for one in each]
    begun = time.process_time()
    for text in [*(text for *_, text in positives), *negatives]:
        found(usual, text)
    seconds = time.process_time() - begun
    all_regions = recognizers(order["regions"])
    every = [one for each in all_regions.values() for one in each]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "recognizers": len(usual),
                "found": [found(all_regions[kind], text) for kind, _, _, text in positives],
                "knows": [kind != "national_id" or group in COUNTRIES for kind, group, _, _ in positives],
                "flagged": [found(every, text) for text in negatives],
                "strange": [
                    (group, value)
                    for kind, group, value, _ in positives
                    if kind == "national_id" and not is_valid(group, value)
                ],
            }
        )
    )


if __name__ == "__main__":
    main()
