"""Frequent function words of languages for which bm25s 0.2.6 has no stop words. They are for detection only and never removed.

Languages without a Snowball stemmer (Ukrainian, Bulgarian) are listed so that their texts are not taken for a related language.
"""

from __future__ import annotations

FUNCTION_WORDS = {
    "arabic": "في من على إلى أن التي الذي هذا هذه عن مع كان لا ما أو ثم وهو بعد بين",
    "basque": "eta da ez bat zen dira du baina ere izan dute zuen dela edo baino bere hau",
    "bulgarian": "на и в за се от да е с по не като са към който която при този тази беше или ще",
    "catalan": "de la el que i les els en un una per amb del és al als no es més com són aquest aquesta seva dels va han",
    "croatian": "i u je na se da za su od s ne kao koji koja koje to ili ali bio iz sa što kako te",
    "czech": "a v se na je že s z do to i o k ve pro jako za by ale jsou po od nebo které který jeho také",
    "danish": "og i at er det til en af på for den med de som ikke et der har fra blev også efter ved om dem mig noget jeg vi",
    "estonian": "ja on ei et see oli kui ka mis oma ta aga või kes seda nii olid siis need",
    "finnish": "ja on ei se että oli ovat hän kun myös joka mutta tai jos kuin sen mukaan sekä voi olla ne jotka",
    "hindi": "के है में की और से का को पर हैं ने कि यह एक था थे नहीं लिए भी इस",
    "hungarian": "a az és hogy nem is egy van volt meg ez de csak már még vagy mint azt el ki amely ha",
    "indonesian": "yang dan di dengan untuk dari ini itu pada adalah tidak dalam ke oleh akan juga sebagai atau",
    "irish": "agus na an ar is le ag do go bhí sé i a ná níl atá seo sin faoi",
    "lithuanian": "ir yra kad į iš su ne tai buvo kaip o bet ar jis po per nuo apie dėl jo",
    "marathi": "आहे आणि या हे ते व होते नाही आहेत की त्या होता असे मध्ये",
    "nepali": "छ र को मा हो पनि गर्न भएको तथा थियो लागि छन् यो ले बाट गर्ने एक",
    "persian": "و در به از که این را با است برای آن یک شده می بود تا",
    "polish": "i w na z się nie do jest że to o jak a po przez od za dla są oraz który lub jego",
    "romanian": "și de în la a care cu pe un o din este pentru că nu mai sunt fi al lui ale sau după prin fost au",
    "serbian": "и је у на се да за су од са не као који која то или али био из што како",
    "turkish": "ve bir bu için da de ile olarak çok daha en gibi olan ne kadar sonra her ancak ya",
    "ukrainian": "і та що не на у в з до як за від є це для його про але або був які який",
    "urdu": "کے کی میں ہے سے اور کا کو نے پر کہ یہ ہیں ایک تھا",
    "vietnamese": "và của là có cho các một trong được những không với người này đã từ khi",
}
