"""Reasoning in many languages, pure and mixed, as a policy under training writes it."""

from __future__ import annotations

PURE = {
    "en-sum": (
        "en",
        "Let us first understand what the problem asks. We need the sum of all positive divisors of 28 that are even. "
        "The divisors are 1, 2, 4, 7, 14 and 28, so the even ones add up to 48. Therefore the answer is 48.",
    ),
    "en-wait": (
        "en",
        "Okay, so I have to find the remainder when the number is divided by nine. Hmm, the digits sum to 31. Wait, "
        "let me double check that by adding them again. Yes, it is 31, and thus the remainder must be four.",
    ),
    "en-geometry": (
        "en",
        "Since the triangle is isosceles, the two base angles are equal. Draw the altitude from the apex; it bisects "
        "the base and makes two right triangles. By the theorem of Pythagoras the height is twelve, which gives an "
        "area of sixty. Hence the inscribed circle has radius ten thirds.",
    ),
    "en-probability": (
        "en",
        "There are six ways to choose two of the four balls. Exactly one of these pairs has both red balls. All the "
        "pairs are equally likely, because the balls are drawn without looking. That makes the probability one sixth.",
    ),
    "de-teiler": (
        "de",
        "Wir suchen die kleinste natürliche Zahl, die durch sechs und durch acht teilbar ist. Dazu zerlegen wir beide "
        "Zahlen in Primfaktoren. Jeder Primfaktor muss mit der größten Potenz vorkommen, die in einer der beiden "
        "Zahlen steht. Also ist das Ergebnis vierundzwanzig.",
    ),
    "de-flaeche": (
        "de",
        "Zuerst berechnen wir die Länge der Diagonale. Nach dem Satz des Pythagoras ist sie fünf Zentimeter lang. "
        "Das Rechteck wird durch sie in zwei gleich große Dreiecke geteilt, deren Fläche jeweils sechs beträgt. "
        "Damit ist gezeigt, dass die Behauptung stimmt.",
    ),
    "fr-suite": (
        "fr",
        "Soit n un entier naturel non nul. On remarque que la suite est croissante et majorée, donc elle converge. "
        "Pour trouver sa limite, il suffit de résoudre une équation du second degré. On obtient deux solutions, mais "
        "une seule est positive. La réponse est donc trois.",
    ),
    "fr-pommes": (
        "fr",
        "Marie a acheté douze pommes et en a donné le tiers à son frère. Il lui en reste donc huit. Ensuite elle en "
        "mange deux, ce qui fait six pommes. Vérifions ce résultat en additionnant les quantités données et mangées.",
    ),
    "es-edad": (
        "es",
        "Llamemos x a la edad de Pedro y planteemos la ecuación que nos da el enunciado. Dentro de cinco años tendrá "
        "el doble de la edad que tenía hace diez. Al resolverla encontramos que hoy tiene veinticinco años. "
        "Comprobamos que la respuesta es correcta.",
    ),
    "es-caminos": (
        "es",
        "Para contar los caminos basta con elegir en qué pasos nos movemos hacia la derecha. En total hay siete pasos "
        "y cuatro de ellos van hacia la derecha. Por lo tanto, el número de caminos es treinta y cinco.",
    ),
    "it-triangolo": (
        "it",
        "Consideriamo il triangolo formato dai tre centri delle circonferenze. I suoi lati sono uguali alle somme dei "
        "raggi, quindi possiamo calcolare il semiperimetro. Usando la formula di Erone troviamo che l'area vale "
        "ottantaquattro. Questo dimostra quanto volevamo.",
    ),
    "pt-velocidade": (
        "pt",
        "Vamos calcular a velocidade média do carro durante toda a viagem. A distância total é de duzentos "
        "quilômetros, e o tempo gasto foi de quatro horas. Assim, a velocidade média não pode ser maior do que "
        "cinquenta quilômetros por hora. Portanto, a resposta está correta.",
    ),
    "nl-getallen": (
        "nl",
        "We zoeken twee opeenvolgende getallen waarvan het product gelijk is aan tweehonderdtien. Het is duidelijk dat "
        "ze allebei ongeveer gelijk zijn aan de wortel van dat getal. Als we veertien en vijftien proberen, dan klopt "
        "het precies. Dus het antwoord is veertien.",
    ),
    "pl-liczby": (
        "pl",
        "Zauważmy, że suma dwóch liczb nieparzystych jest zawsze parzysta. Oznacza to, że co najmniej jedna z tych "
        "liczb musi być równa dwa, ponieważ jest to jedyna parzysta liczba pierwsza. Wystarczy więc sprawdzić jeden "
        "przypadek. Odpowiedź brzmi siedemnaście.",
    ),
    "sv-tal": (
        "sv",
        "Vi börjar med att skriva om ekvationen så att alla termer står på samma sida. Därefter kan vi faktorisera "
        "uttrycket och se att det finns två lösningar. Den ena är negativ och kan därför inte vara en längd. "
        "Svaret är alltså sju.",
    ),
    "tr-sayi": (
        "tr",
        "Öncelikle verilen sayının asal çarpanlarını bulalım. Bu sayı hem üçe hem de beşe tam olarak bölünebildiği "
        "için on beşin bir katıdır. Geriye kalan çarpan ise yedi olur. Dolayısıyla cevap yüz beş olarak bulunur.",
    ),
    "vi-so": (
        "vi",
        "Trước hết ta cần tìm tất cả các ước của số đã cho. Vì số này là tích của hai số nguyên tố khác nhau nên nó có "
        "đúng bốn ước. Tổng của chúng được tính bằng công thức quen thuộc. Vậy đáp án của bài toán là bảy mươi hai.",
    ),
    "id-bilangan": (
        "id",
        "Pertama, kita misalkan bilangan tersebut sebagai suatu variabel yang belum diketahui. Kemudian kita susun "
        "persamaan berdasarkan keterangan pada soal. Setelah disederhanakan, diperoleh nilai yang memenuhi semua "
        "syarat. Jadi, jawaban yang benar adalah sembilan.",
    ),
    "ru-delenie": (
        "ru",
        "Пусть искомое число равно произведению двух простых чисел. Тогда у него ровно четыре делителя, и их сумма нам "
        "известна. Составим уравнение и решим его относительно меньшего множителя. Получаем, что ответ равен тридцати "
        "пяти, что и требовалось найти.",
    ),
    "ru-peremennye": (
        "ru",
        "Обозначим через x и y длины катетов, а через НОД(a, b) наибольший общий делитель. По теореме Пифагора сумма "
        "квадратов катетов равна квадрату гипотенузы. Отсюда следует, что одно из чисел чётно. Проверим это ещё раз.",
    ),
    "uk-kut": (
        "uk",
        "Розглянемо трикутник, у якому один із кутів дорівнює шістдесяти градусам. За теоремою косинусів знаходимо "
        "третю сторону. Оскільки вона більша за інші, то проти неї лежить найбільший кут. Отже, відповідь дорівнює "
        "семи сантиметрам.",
    ),
    "zh-yueshu": (
        "zh",
        "首先我们需要理解题目的意思。设这两个数的最大公约数为六,那么它们都可以写成六的倍数。由于它们的和是四十八,"
        "所以两个互质的因子之和等于八。因此可能的组合只有两种,答案是二。",
    ),
    "zh-shuyu": (
        "zh",
        "设 GCD 为 d,由 Bezout 定理知存在整数 x, y 使得等式成立。接下来对两边同时取 mod 7,得到余数为三。"
        "再利用 Vieta 公式,可以求出两个根的和与积。最后用 Python 验证,结果与 DFS 搜索得到的答案一致。",
    ),
    "zh-jihe": (
        "zh",
        "因为三角形ABC是等腰三角形,所以底角相等。过点A作BC的垂线,垂足为D,则BD等于CD。根据勾股定理,高AD等于十二,"
        "从而面积为六十。等等,我再检查一遍计算过程,没有发现问题。",
    ),
    "zh-theorem": (
        "zh",
        "根据中国剩余定理 (the Chinese remainder theorem for coprime moduli),这个同余方程组有唯一解。"
        "我们先求出每个模数的逆元,然后把它们加起来。最后得到的最小正整数解是二十三,满足题目中的所有条件。",
    ),
    "zh-graph": (
        "zh",
        "把每个城市看作图中的一个顶点 (vertex),每条道路看作一条边。由于每个顶点的度数都是偶数,所以这个图存在欧拉回路。"
        "我们从任意一个顶点出发,沿着没有走过的边前进,直到回到起点为止。这样就证明了结论。",
    ),
    "ja-seisuu": (
        "ja",
        "まず、問題の条件を整理します。二つの整数の和が十で、積が二十一であることから、二次方程式を立てることができます。"
        "これを解くと、解は三と七になります。したがって、答えは三と七です。",
    ),
    "ja-katakana": (
        "ja",
        "グラフのすべての頂点の次数が偶数なので、オイラー閉路が存在します。ここで GCD を使って確認しましょう。"
        "最大公約数は六。よって、条件を満たす組は全部で四通りあることがわかります。",
    ),
    "ko-hap": (
        "ko",
        "먼저 주어진 조건을 정리해 봅시다. 두 수의 합이 열이고 곱이 스물하나이므로 이차방정식을 세울 수 있습니다. "
        "이 방정식을 풀면 두 근은 삼과 칠이 됩니다. 따라서 구하는 답은 칠입니다.",
    ),
    "ar-adad": (
        "ar",
        "لنفرض أن العدد المطلوب هو حاصل ضرب عددين أوليين مختلفين. نعلم أن مجموع قواسم هذا العدد يساوي ثمانية وأربعين. "
        "بعد التعويض في المعادلة نحصل على قيمة واحدة فقط. إذن الجواب الصحيح هو خمسة وثلاثون.",
    ),
    "fa-adad": (
        "fa",
        "فرض کنید عدد مورد نظر برابر با حاصل‌ضرب دو عدد اول باشد. می‌دانیم که مجموع مقسوم‌علیه‌های این عدد چهل و هشت است. "
        "با حل این معادله به یک جواب می‌رسیم که شرط مسئله را برآورده می‌کند. پس پاسخ سی و پنج است.",
    ),
    "hi-sankhya": (
        "hi",
        "सबसे पहले हम प्रश्न को ध्यान से समझते हैं। दो संख्याओं का योग दस है और उनका गुणनफल इक्कीस है। "
        "इसलिए हम एक द्विघात समीकरण बना सकते हैं। इसे हल करने पर उत्तर तीन और सात मिलता है।",
    ),
    "el-arithmoi": (
        "el",
        "Αρχικά παρατηρούμε ότι το άθροισμα των δύο αριθμών είναι δέκα. Επομένως μπορούμε να γράψουμε μια εξίσωση "
        "δευτέρου βαθμού με άγνωστο τον μικρότερο αριθμό. Λύνοντας την εξίσωση βρίσκουμε τρία και επτά.",
    ),
    "he-mispar": (
        "he",
        "נסמן את המספר המבוקש באות כלשהי ונכתוב את המשוואה המתאימה. סכום שני המספרים הוא עשר והמכפלה שלהם היא עשרים "
        "ואחת. לאחר פתרון המשוואה נקבל שהתשובה היא שלוש ושבע.",
    ),
    "th-lek": (
        "th",
        "ก่อนอื่นเราต้องหาผลรวมของจำนวนทั้งสอง จากนั้นตั้งสมการกำลังสองเพื่อหาคำตอบ เมื่อแก้สมการแล้วจะได้สามและเจ็ด ดังนั้นคำตอบคือเจ็ด",
    ),
}
"""By name: the language, and a text in it alone."""

TRICKY = {
    "latex": (
        "en",
        r"We have $\text{l'équation du second degré est résolue par la formule suivante}$ and also "
        r"\[\text{Die Lösung dieser Gleichung ist nicht eindeutig bestimmt}\] so that the result follows at once. "
        r"\begin{align*} x &= \text{最大公约数最大公约数最大公约数} \end{align*} This proves the claim that we made.",
    ),
    "latex-inline": (
        "en",
        r"By symmetry \(\text{сумма всех чисел равна нулю и это всё}\) holds, and $$\text{两个数的和等于二十四}$$ as we "
        "have seen above. Therefore the two expressions agree for every choice of the parameters.",
    ),
    "bare-commands": (
        "en",
        r"Now \frac{\sin x}{\cos x} = \tan x and \sqrt{\mathrm{lcm}(a,b)} \leq \operatorname{ord}(g) whenever the "
        r"order divides the group. Therefore \sum_{k=1}^{n} k = \frac{n(n+1)}{2} as everybody knows from school.",
    ),
    "fence": (
        "en",
        "The following program counts the divisors of the number.\n```python\n# 计算所有因子的数量并返回结果给用户看\n"
        "def anzahl(zahl):\n    return sum(zahl % teiler == 0 for teiler in range(1, zahl + 1))\n```\n"
        "Running it prints eight, which agrees with the formula that we derived before.",
    ),
    "inline-code": (
        "en",
        "The call `berechne_den_größten_gemeinsamen_teiler` returns the value, and `计算最大公约数的函数在这里` is only "
        "another name for the same function. Both of them give the answer that we expected from the theory.",
    ),
    "bare-code": (
        "zh",
        "我们可以写一个简单的程序来验证这个结论是否正确。\n"
        "def count_divisors(number):\n    total = 0\n    for divisor in range(1, number + 1):\n"
        "        if number % divisor == 0:\n            total += 1\n    return total\n"
        "for number in range(10):\n    print(number, count_divisors(number))\n"
        "运行这个程序以后得到的结果与前面的公式完全一致。因此答案是八。",
    ),
    "bare-cpp": (
        "zh",
        "下面给出完整的程序,它的时间复杂度是线性的。\n#include <bits/stdc++.h>\nusing namespace std;\nint main() {\n"
        "    long long answer = 0, current = 1;\n    cin >> current;\n"
        "    for (int index = 0; index < current; index++) {\n        answer += index;\n    }\n"
        '    cout << answer << "the total number is printed";\n    return 0;\n}\n'
        "这个程序对所有的测试数据都能得到正确的结果。",
    ),
    "tags": (
        "ja",
        "<think>まず、条件を式で表します。次に、その式を解いて答えを求めます。</think>\n<answer>したがって、答えは"
        '七です。</answer><div class="the answer to this very long problem is here">以上で証明が終わります。</div>',
    ),
    "url": (
        "ko",
        "이 정리의 증명은 https://example.org/the-proof-of-the-theorem-is-given-here/and-there/as-you-can-see?with=that 에서 "
        "볼 수 있습니다. 따라서 구하는 답은 칠입니다. 다시 한번 확인해 보면 모든 조건을 만족합니다.",
    ),
    "names": (
        "en",
        "By the theorem of Poincaré and Łojasiewicz the gradient flow converges. Gauß, François Viète, Évariste Galois, "
        "Ramanujan and Erdős all knew a special case. Later Gödel and Čech proved what Bézout had only conjectured.",
    ),
    "han-name": (
        "en",
        "This is the theorem of 孙子 (Sun Tzu), who lived long ago. It says that such a number exists and is unique. "
        "The proof of 秦九韶 (Qin Jiushao) is constructive and gives the number itself, which is what we need.",
    ),
    "short-name": ("en", "So 孙子 knew that such a number must always exist, and that is all we need."),
    "cyrillic-name": (
        "en",
        "The inequality is due to Чебышёв (Chebyshev) and it bounds the tail of the distribution. We apply it with "
        "the variance that was computed above, so the probability is at most one quarter. The group Ш is finite here.",
    ),
    "latin-terms": (
        "en",
        "We argue by reductio ad absurdum, so suppose that the number is rational. A priori it could be negative, but "
        "mutatis mutandis the same argument works there. This is a contradiction, quod erat demonstrandum.",
    ),
    "quotation": (
        "en",
        "The German word „Eigenwert“ means proper value, and the Russian word «ряд» means series. In French one says "
        "« anneau » for a ring. None of this changes the argument, which only uses the definition.",
    ),
    "plain-equations": (
        "zh",
        "设 a + b = c, 则有 ab + cd < ef, 又因为 sin x * cos y = max, log ab > exp cd, 所以 x1 + x2 + xyz = abc / def。"
        "于是两边相等,原命题得证。答案就是十二。",
    ),
    "long-equation": (
        "en",
        "a + b = c => ab + cd < ef => abc + def = ghi => x*y*z = w and xy + yz + zx = pq - rs, so by the lemma we "
        "get (a+b)(b+c)(c+a) = abc + xyz. This is the identity that was to be shown, and we are done with it.",
    ),
    "greek-letters": (
        "en",
        "Let α, β and γ be the roots; then αβ + βγ + γα = 3 and αβγ = 7 by the formulas of Vieta. With Δx and Δy "
        "small, and ε > 0 and δ > 0 given, the angle θ is π/3 and λ is at most μ. Hence Σ and Ω agree.",
    ),
    "styled-letters": (
        "en",
        "The variables 𝑥𝑦𝑧𝑤𝑎𝑏𝑐𝑑𝑒𝑓 and 𝐀𝐁𝐂𝐃𝐄𝐅𝐆 are integers, as are ABCDEFGHIJ and ℝℂℕℤℚℵ. We can assume "
        "that they are positive, because changing all signs does not change the product of two of them.",
    ),
    "numbers": (
        "und",
        "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 10946\n" * 5,
    ),
    "chemistry": (
        "zh",
        "反应方程式为 2H2 + O2 = 2H2O,生成物还有 NaCl 和 CH3COOH。已知溶液的体积是 250 mL,质量为 36 kg,温度是 25 °C。"
        "因此物质的量浓度等于零点五,速度为 10 km/h 时也是如此。",
    ),
    "capitals": (
        "und",
        "THEREFORE THE ANSWER IS SEVEN. THE PROOF IS COMPLETE AND NOTHING REMAINS TO BE SHOWN HERE.",
    ),
    "table": (
        "en",
        "| Name | Anzahl | Größe | Stück |\n|---|---|---|---|\n| Müller | 12 | 3 | 4 |\n| Straße | 15 | 4 | 2 |\n\n"
        "From the table we see that the total number of items is twenty seven, and the largest of them is the second.",
    ),
    "emoji": (
        "es",
        "¡Muy bien! 🎉🎉🎉 Ya tenemos la respuesta que buscábamos desde el principio 😀👍🏽. Ahora solo nos queda "
        "comprobar que cumple todas las condiciones del problema ✅. La solución es cuarenta y dos 🚀.",
    ),
    "short": ("und", "Also ist x = 4. Done."),
    "gloss": (
        "en",
        "The Japanese word for theorem is 定理 (teiri) and in Chinese it is 定理 (dingli) as well. In Korean it is "
        "정리 (jeongni), written with two syllables. All three come from the same characters, as one would expect.",
    ),
    "money": (
        "en",
        "The first shop sells the book for $5 and the second one asks $7 for it, while both sell the pen for $2 only. "
        "So buying everything in the first shop saves two dollars, and the answer is that we pay $7 in total.",
    ),
    "fr-gauss": (
        "fr",
        "D'après le théorème de Gauß, tout polynôme non constant admet au moins une racine complexe. Selon Weierstraß "
        "et Łukasiewicz, cette racine est isolée. On en déduit que l'ensemble des racines est fini, ce qui conclut.",
    ),
    "de-terms": (
        "de",
        "Mit dem Backtracking-Algorithmus aus dem Buch Introduction to Algorithms lässt sich die Aufgabe lösen. Der "
        "Computer braucht dafür nur wenige Sekunden, weil der Baum klein bleibt. Danach prüfen wir das Ergebnis.",
    ),
    "ru-terms": (
        "ru",
        "Воспользуемся алгоритмом Dijkstra и структурой данных heap для ускорения работы программы. Каждая вершина "
        "графа попадает в очередь не более одного раза. Поэтому сложность алгоритма равна O(n log n), что и нужно.",
    ),
    "hex": (
        "ko",
        "이 문자열의 해시 값은 abcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdefabcdef 입니다. 그러므로 두 파일의 내용은 "
        "서로 같다고 볼 수 있습니다. 나머지 경우도 같은 방법으로 확인할 수 있습니다.",
    ),
}
"""By name: the language, and a text that looks mixed to a naive judge but is not."""

ENGLISH = (
    "We start with the smallest case and look at what happens to the remainder. It turns out that the pattern repeats "
    "after six steps, so we only have to check these. Each of them is easy to verify by hand. "
)
CHINESE = "我们从最小的情况开始,观察余数的变化规律。可以发现每六步就会重复一次,所以只需要检查这六种情况。"

MIXED = {
    "en-zh-middle": (
        "en",
        {"zh"},
        ENGLISH + "所以我们可以得到最后的答案,它等于二十四。" + " Therefore the answer is right.",
    ),
    "en-zh-some": (
        "en",
        {"zh"},
        3 * ENGLISH + "等一下,让我再检查一遍这个计算的过程,看看有没有什么地方出了错误,然后再继续下去。",
    ),
    "en-zh-half": ("en", {"zh"}, ENGLISH + ENGLISH + CHINESE + "因此答案是六。"),
    "en-zh-words": (
        "en",
        {"zh"},
        "First we 需要 find the 最大公约数 of these numbers, and 然后 divide both sides by it. The 结果 is an equation "
        "with 整数 coefficients, which 可以 be solved by 观察 quickly.",
    ),
    "zh-en-paragraph": ("zh", {"en"}, 2 * CHINESE + "\n\n" + ENGLISH + "\n\n" + CHINESE),
    "zh-en-sentence": (
        "zh",
        {"en"},
        2 * CHINESE + "So the answer must be six because the pattern repeats. " + CHINESE,
    ),
    "zh-en-end": ("zh", {"en"}, CHINESE + "Wait, let me check this again. I think that the result is wrong here."),
    "zh-en-words": (
        "zh",
        {"und"},
        "首先我们 compute 这个数字的 remainder,然后 check 它是不是 equal 零。如果 correct,我们就 continue 进行下一步的计算,"
        "否则 return 到最开始的地方重新 calculate 一遍。",
    ),
    "zh-ja": ("zh", {"ja"}, CHINESE + "したがって、条件を満たす整数は全部で四つあることがわかります。"),
    "ja-zh": (
        "ja",
        {"zh"},
        "まず、問題の条件を整理します。二つの整数の和が十であることから、二次方程式を立てることができます。"
        "我们从最小的情况开始观察余数的变化规律。所以只需要检查这六种可能出现的情况。",
    ),
    "en-de": ("en", {"de"}, ENGLISH + "Also müssen wir nur noch zeigen, dass die Zahl durch sieben teilbar ist."),
    "en-de-lines": (
        "en",
        {"de"},
        "First we compute the sum of the digits.\nDann teilen wir das Ergebnis durch neun.\nThe remainder must be four "
        "in this case.\nDamit ist die Behauptung vollständig bewiesen.\nSo the answer is certainly correct.\n",
    ),
    "en-fr": (
        "en",
        {"fr"},
        ENGLISH + "On en déduit que la somme cherchée est égale à douze, ce qui est bien un entier.",
    ),
    "en-es": (
        "en",
        {"es"},
        ENGLISH + "Por lo tanto, la suma de los ángulos interiores debe ser igual a ciento ochenta.",
    ),
    "en-it": (
        "en",
        {"it"},
        ENGLISH + "Quindi possiamo concludere che il numero cercato è il prodotto delle due radici.",
    ),
    "en-pt": (
        "en",
        {"pt"},
        ENGLISH + "Portanto, não existe nenhum número inteiro que satisfaça as duas condições.",
    ),
    "en-ru": ("en", {"ru"}, ENGLISH + "Следовательно, сумма всех таких чисел равна двадцати четырём."),
    "en-ko": ("en", {"ko"}, ENGLISH + "따라서 우리가 구하려는 값은 이십사가 됩니다."),
    "en-ja": ("en", {"ja"}, ENGLISH + "したがって、求める値は二十四であることがわかります。"),
    "en-ar": ("en", {"ar"}, ENGLISH + "إذن مجموع هذه الأعداد يساوي أربعة وعشرين وهذا هو الجواب."),
    "en-hi": ("en", {"hi"}, ENGLISH + "इसलिए इन सभी संख्याओं का योग चौबीस होना चाहिए।"),
    "en-el": ("en", {"el"}, ENGLISH + "Επομένως το άθροισμα όλων αυτών των αριθμών είναι είκοσι τέσσερα."),
    "en-tr": ("en", {"tr"}, ENGLISH + "Dolayısıyla bu sayıların toplamı yirmi dört olmalıdır ve cevap budur."),
    "en-vi": ("en", {"vi"}, ENGLISH + "Vậy tổng của tất cả các số này phải bằng hai mươi bốn như đã nói ở trên."),
    "de-en": (
        "de",
        {"en"},
        "Wir suchen die kleinste natürliche Zahl, die durch sechs und durch acht teilbar ist. Dazu zerlegen wir beide "
        "Zahlen in Primfaktoren. Now we only have to multiply all of them, which gives the final answer.",
    ),
    "fr-en": (
        "fr",
        {"en"},
        "Soit n un entier naturel non nul. On remarque que la suite est croissante et majorée, donc elle converge. "
        "But wait, we should check whether the limit is really an integer. C'est bien le cas ici.",
    ),
    "es-pt": (
        "es",
        {"pt"},
        "Llamemos x a la edad de Pedro y planteemos la ecuación que nos da el enunciado. Al resolverla encontramos que "
        "hoy tiene veinticinco años. Então não há nenhuma outra solução, porque as duas equações são diferentes.",
    ),
    "ru-uk": (
        "ru",
        {"uk"},
        "Пусть искомое число равно произведению двух простых чисел. Тогда у него ровно четыре делителя, и их сумма нам "
        "известна. Оскільки ця сума більша за сорок, то найменший дільник дорівнює п'яти, що й треба було довести.",
    ),
    "ru-en": (
        "ru",
        {"en"},
        "Пусть искомое число равно произведению двух простых чисел. Тогда у него ровно четыре делителя. "
        "So the sum of these divisors is what we are looking for.",
    ),
    "ko-zh": (
        "ko",
        {"zh"},
        "먼저 주어진 조건을 정리해 봅시다. 두 수의 합이 열이고 곱이 스물하나입니다. 所以我们可以列出一个二次方程来求解。",
    ),
    "ar-en": (
        "ar",
        {"en"},
        "لنفرض أن العدد المطلوب هو حاصل ضرب عددين أوليين مختلفين. نعلم أن مجموع قواسم هذا العدد يساوي ثمانية وأربعين. "
        "Now we can solve this equation and get the answer.",
    ),
    "en-ru-words": (
        "en",
        {"ru"},
        "Let us найти the smallest число that is divisible by семь and also чётное. We проверим the case of fourteen, "
        "which очевидно works, поэтому the answer is fourteen.",
    ),
    "en-zh-list": (
        "en",
        {"zh"},
        "1. The first case is very easy to see.\n2. 第二种情况比较复杂。\n3. The third case follows from the first.\n"
        "4. 第四种情况不可能发生。\n5. The last one is left as an exercise.\n",
    ),
    "en-zh-think": (
        "en",
        {"zh"},
        f"<think>{CHINESE}{CHINESE}{CHINESE}</think>\n<answer>7</answer>\n{4 * ENGLISH}",
    ),
    "latex-around": (
        "en",
        {"de"},
        r"Let $x^2 + 2x = 8$ be given. We complete the square and get \[(x+1)^2 = 9.\] Nun ziehen wir auf beiden Seiten "
        r"die Wurzel und erhalten $x + 1 = \pm 3$. So the solutions are $x = 2$ and $x = -4$ as claimed.",
    ),
    "comment-in-code-line": (
        "en",
        {"zh"},
        ENGLISH + "\n// 这里我们先计算所有因子的数量\n// 然后把结果返回给用户看\n",
    ),
    "no-punctuation": (
        "en",
        {"de"},
        "so we take the number and divide it by seven and then look at what remains after that and we do this again and "
        "again until nothing is left which happens after some steps and then we know that the answer is right and that "
        "nothing else can be the case because we looked at everything und jetzt schauen wir uns noch an was passiert "
        "wenn die zahl nicht durch sieben teilbar ist denn auch dann muss das verfahren einmal zu ende gehen weil die "
        "zahlen immer kleiner werden und nicht negativ sein können also sind wir damit auch schon fertig",
    ),
}
"""By name: the main language, the others that must be found, and the text."""
