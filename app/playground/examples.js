// Examples: four meanings, each said in twelve languages.

/** @typedef {{tag: string, name: string, sentences: string[]}} Language */

/** @type {Language[]} each with the same meanings, in the same order */
export const LANGUAGES = [
  {
    tag: "en", name: "English", sentences: [
      "Our team won the match in the last minute.",
      "The doctor prescribed her an antibiotic.",
      "We booked a small hotel by the sea for the summer.",
      "Parliament voted on the new tax law today.",
    ],
  },
  {
    tag: "de", name: "Deutsch", sentences: [
      "Unsere Mannschaft hat das Spiel in der letzten Minute gewonnen.",
      "Der Arzt verschrieb ihr ein Antibiotikum.",
      "Wir haben für den Sommer ein kleines Hotel am Meer gebucht.",
      "Das Parlament hat heute über das neue Steuergesetz abgestimmt.",
    ],
  },
  {
    tag: "fr", name: "Français", sentences: [
      "Notre équipe a gagné le match à la dernière minute.",
      "Le médecin lui a prescrit un antibiotique.",
      "Nous avons réservé un petit hôtel au bord de la mer pour l'été.",
      "Le Parlement a voté aujourd'hui la nouvelle loi fiscale.",
    ],
  },
  {
    tag: "es", name: "Español", sentences: [
      "Nuestro equipo ganó el partido en el último minuto.",
      "El médico le recetó un antibiótico.",
      "Reservamos un pequeño hotel junto al mar para el verano.",
      "El Parlamento votó hoy la nueva ley de impuestos.",
    ],
  },
  {
    tag: "ru", name: "Русский", sentences: [
      "Наша команда выиграла матч на последней минуте.",
      "Врач прописал ей антибиотик.",
      "Мы забронировали на лето небольшой отель у моря.",
      "Сегодня парламент голосовал по новому налоговому закону.",
    ],
  },
  {
    tag: "tr", name: "Türkçe", sentences: [
      "Takımımız maçı son dakikada kazandı.",
      "Doktor ona bir antibiyotik yazdı.",
      "Yaz için deniz kenarında küçük bir otel ayırttık.",
      "Meclis bugün yeni vergi yasasını oyladı.",
    ],
  },
  {
    tag: "ar", name: "العربية", sentences: [
      "فاز فريقنا بالمباراة في الدقيقة الأخيرة.",
      "وصف لها الطبيب مضادًا حيويًا.",
      "حجزنا فندقًا صغيرًا على البحر لفصل الصيف.",
      "صوّت البرلمان اليوم على قانون الضرائب الجديد.",
    ],
  },
  {
    tag: "hi", name: "हिन्दी", sentences: [
      "हमारी टीम ने आख़िरी मिनट में मैच जीत लिया।",
      "डॉक्टर ने उसे एंटीबायोटिक दवा लिखी।",
      "हमने गर्मियों के लिए समुद्र किनारे एक छोटा होटल बुक किया।",
      "संसद ने आज नए कर क़ानून पर मतदान किया।",
    ],
  },
  {
    tag: "sw", name: "Kiswahili", sentences: [
      "Timu yetu ilishinda mechi katika dakika ya mwisho.",
      "Daktari alimwandikia dawa ya antibiotiki.",
      "Tulihifadhi hoteli ndogo kando ya bahari kwa majira ya joto.",
      "Bunge lilipigia kura sheria mpya ya kodi leo.",
    ],
  },
  {
    tag: "zh", name: "中文", sentences: [
      "我们队在最后一分钟赢得了比赛。",
      "医生给她开了抗生素。",
      "我们订了一家海边的小旅馆过夏天。",
      "议会今天就新税法进行了投票。",
    ],
  },
  {
    tag: "ja", name: "日本語", sentences: [
      "私たちのチームは最後の1分で試合に勝った。",
      "医者は彼女に抗生物質を処方した。",
      "夏に備えて海辺の小さなホテルを予約した。",
      "議会は今日、新しい税法について採決した。",
    ],
  },
  {
    tag: "ko", name: "한국어", sentences: [
      "우리 팀이 마지막 순간에 경기를 이겼다.",
      "의사는 그녀에게 항생제를 처방했다.",
      "우리는 여름을 위해 바닷가의 작은 호텔을 예약했다.",
      "의회는 오늘 새 세법을 두고 표결했다.",
    ],
  },
];

/**
 * @param {number} language
 * @param {number} meaning
 */
export function sentence(language, meaning) {
  const sentences = LANGUAGES[language % LANGUAGES.length]?.sentences ?? [];
  return sentences[meaning % sentences.length] ?? "";
}

/** @type {{name: string, texts: () => string[]}[]} */
export const SETS = [
  { name: "A story each", texts: () => LANGUAGES.map((_, index) => sentence(index, index)) },
  { name: "One meaning", texts: () => LANGUAGES.map((_, index) => sentence(index, 0)) },
  {
    name: "Two meanings",
    texts: () => LANGUAGES.map((_, index) => sentence(index, index < LANGUAGES.length / 2 ? 1 : 2)),
  },
];
