"""Inputs that outside reports broke, by kind, each with neighbours: right answers in other spellings, and answers
that lost or changed a part. Each line is a truth, answers that are right, and answers that are wrong."""

from __future__ import annotations

import pytest

from tests.shared.judged_answers import Judged, check_boxed, rewards
from verifiers.math.config import MathConfig
from verifiers.math.verifier import MathVerifier

BOXED: dict[str, list[Judged]] = {
    "a letter is a variable, not a unit": [
        ("3ab", ["3ba", r"3 \cdot b \cdot a"], ["3", "3a", "ab", "3b"]),
        (r"2 \pi a b", [r"2ba\pi"], [r"2\pi", r"2\pi a", "2ab"]),
        ("7g t", ["7tg"], ["7", "7g", "7t"]),
        (r"\frac{37}{4} m", [r"\frac{37m}{4}", r"\frac{37}{4}\text{ m}"], [r"\frac{37}{4}", "9.25"]),
        (r"\frac{1}{\sqrt{2}}c", [r"\frac{c}{\sqrt2}"], [r"\frac{1}{\sqrt2}", r"\frac{c}{2}"]),
        (r"\frac{1}{m} t", [r"\frac{t}{m}"], [r"\frac{1}{m}", r"\frac{m}{t}", "t"]),
        ("-9.8 t", ["-9.8t"], ["-9.8", "9.8t"]),
        ("m g h", ["hgm"], ["m g", "g h", "mgh^2"]),
        ("2+5c", ["5c+2"], ["2+5", "7", "2"]),
        ("I(0)e^{-t}", [r"I(0)\mathrm{e}^{-t}"], ["I(0)e^{t}", "I(1)e^{-t}", "0", "e^{-t}"]),
    ],
    "all of several quantities count": [
        (
            r"3 \text{ hours } 20 \text{ minutes}",
            [r"\text{3 h 20 min}", r"3\text{ hours and }20\text{ minutes}", r"200\text{ minutes}", "3h20m"],
            [r"3 \text{ hours } 40 \text{ minutes}", r"3\text{ hours}", "3", "200", r"320\text{ minutes}"],
        ),
        (
            r"5 \text{ ft } 7 \text{ in}",
            ["5'7\"", r"\text{5 feet, 7 inches}", r"67\text{ in}"],
            [r"5 \text{ ft } 9 \text{ in}", r"5\text{ ft}", "5", r"7\text{ ft }5\text{ in}"],
        ),
        (
            r"4 \text{ ft} \times 12 \text{ ft}",
            [r"\text{4 ft by 12 ft}", r"4\,\mathrm{ft} \times 12\,\mathrm{ft}"],
            ["4", "48", r"4 \text{ ft} \times 12 \text{ in}", r"4\text{ ft}"],
        ),
        (
            r"9 \mathrm{ d}, 12 \mathrm{q}",
            [r"12 \mathrm{ q}, 9\mathrm{d}"],
            ["9", "9, 12", r"9\mathrm{q}, 12\mathrm{d}"],
        ),
        (r"3 \text{ quarters}, 2 \text{ dimes}", [r"\text{2 dimes and 3 quarters}"], ["3, 2", "2, 3", "3"]),
        (r"63^{\circ} 45^{\prime}", ["63°45'"], [r"63^{\circ}", r"63^{\circ} 54'"]),
    ],
    "an index is a part of a name": [
        (r"T_{\text{max}}", [r"T_{\mathrm{max}}", "T_{max}"], [r"T_{\text{min}}", "T"]),
        (r"2 v_{\text{initial}}", [r"2v_{\mathrm{initial}}"], [r"2 v_{\text{final}}", "2v", "2"]),
        (r"25 \frac{\text{km}}{\text{h}}", [r"25\text{ km/h}", "25"], [r"25 \frac{\text{m}}{\text{s}}"]),
        (r"y=\frac{\mathrm{cb}}{\mathrm{dm}}", [r"\frac{bc}{md}"], [r"y=\frac{\mathrm{ab}}{\mathrm{xy}}"]),
        (
            r"\frac{1}{3} E_{1}+\frac{2}{3} E_{2}",
            [r"\frac{E_1+2E_2}{3}"],
            [r"\frac23", r"\frac{1}{3} E_{2}+\frac{2}{3} E_{1}"],
        ),
    ],
    "a name is dropped with its value only": [
        ("f(3)=7", ["7", "f(3)=7.0"], ["f(1)=7", "g(3)=7", "f(3)=8", "3"]),
        ("AB=5", ["5"], ["CD=5", "AB"]),
        ("xy=6", ["yx=6"], ["6", "x=6"]),
        ("PV=nRT", ["nRT=VP"], ["nRT", "PV=nR"]),
        (r"\frac{dy}{dx}=2x", ["2x"], [r"\frac{y}{x}=2x", "2"]),
    ],
    "a list has all its members": [
        (
            r"\frac{1}{2},-1, \frac{-1 \pm i \sqrt{3}}{4}",
            [r"-1, 0.5, \frac{-1+i\sqrt3}{4}, \frac{-1-i\sqrt3}{4}"],
            [r"\frac12", r"\frac12, -1"],
        ),
        (r"d=5, M=(-1, \frac{7}{2})", [r"M=(-1, 3.5), d=5"], [r"\frac72", "5", r"d=5, M=(\frac72, -1)"]),
        (r"a=4 \text{ or } a=-7", ["-7, 4", r"a=-7 \text{ or } a=4"], ["4", "a=4", "4, 7", "a=4, b=-7"]),
        ("n=3, 5, 8", ["8, 5, 3"], ["n=1, 5, 8", "3, 5", "3, 5, 8, 9"]),
        (r"\pm 38", ["38, -38"], ["38", "-38"]),
    ],
    "e-notation": [
        ("4.5e33", [r"4.5\times 10^{33}", r"45 \cdot 10^{32}"], [r"4.5\times 10^{32}", "4.5", "4.6e33"]),
        ("45000", ["4.5e4", "4.5E4", "4.5e+4"], ["4.5e3", "4.5e"]),
        ("0.00032", ["3.2e-4"], ["3.2e-5", "3.2e4"]),
        ("1e-5", ["0.00001", "10^{-5}"], ["0.0001", "1e5"]),
        (r"2\mathrm{e}^{3}", ["2e^3"], ["2000", "2e"]),
    ],
    "exact numbers": [
        (r"\frac{1}{2031!}", [r"\frac{1}{2031 \cdot 2030!}"], [r"\frac{1}{2029!}", "0"]),
        (r"\frac{1}{3^{80}}", ["3^{-80}", r"\frac{1}{9^{40}}"], [r"\frac{1}{3^{79}}"]),
        (r"1.6\times 10^{-19}", ["1.6e-19", r"16 \times 10^{-20}"], [r"1.7\times 10^{-19}", "0"]),
        (r"1.6\times 10^{-6}", ["0.0000016"], [r"1.7\times 10^{-6}"]),
        (r"\frac{2025!}{2^{2025}}", [], [r"\frac{2024!}{2^{2024}}"]),
        (r"1-\frac{1}{2^{100}}", [r"\frac{2^{100}-1}{2^{100}}"], [r"1+\frac{1}{2^{100}}", "1"]),
        (r"\sqrt{2}", [r"\frac{2}{\sqrt2}"], [r"\sqrt{2}+10^{-40}"]),
        (r"10^{10^{10}}", [], [r"10^{10^{9}}", "10"]),
    ],
    "percent": [
        (r"12.5\%", ["12.5", "0.125", r"\frac18", r"12\frac12\%"], ["125", "12", r"1.25\%"]),
        (r"1.1\%", ["1.1", "0.011"], ["11", "1"]),
        ("12.5", [r"12.5\%"], [r"125\%"]),
        (r"33\frac{1}{3}\%", [r"\frac{100}{3}\%", r"\frac13"], [r"33\%", r"\frac{1}{3}\%"]),
        (r"40\%", ["40", "0.4", r"\frac25"], ["4", r"40\text{ cm}"]),
    ],
    "units outside of text": [
        ("9 (apples)", ["9", "9 apples", r"9\text{ apples}"], ["8", "9 pears"]),
        ("20 $cm^{2}$", ["20", r"20\text{ cm}^2", r"20\text{ square centimeters}"], ["202", r"20\text{ cm}"]),
        (r"$22.1cm^{2}$", [r"22.1\text{ cm}^2", "22.1"], ["22.1 m^2", "22"]),
        (r"5\text{ kg}", ["5", r"5000\text{ g}"], [r"5\text{ g}", r"5\text{ m}"]),
        (r"\$0.75", ["0.75", "75¢"], ["75", "€0.75"]),
        (
            "5",
            [r"5\text{ cm}"],
            [r"5\text{ or so}", r"5\text{ factorial}", r"5\text{ less}", r"5\text{ dozen}"],
        ),
    ],
    "times of day": [
        (
            r"\text{4:30 p.m.}",
            [r"4:30 \text{ p.m.}", r"4:30\text{ PM}", "16:30"],
            [r"4:30\text{ a.m.}", "4:30", r"4:40\text{ p.m.}", r"\frac{2}{15}"],
        ),
        ("12:50", [r"\text{12:50}"], ["12:05", "12", r"\frac{12}{50}"]),
        ("3:4", ["6:8", r"\frac34"], ["4:3", "3:4:5"]),
    ],
    "numbers side by side": [
        ("1250", ["1 250", r"1\,250", "1,250"], ["251", "1 25"]),
        (r"\frac{11}{4}", ["2 3/4", r"2\frac34"], [r"\frac54", "2 1/4", r"\frac{3}{2}"]),
        ("7", [], ["3 4", "3 + 3"]),
        ("251", [], ["1 250"]),
        ("-2.5", ["-2 1/2", r"-2\frac12"], ["2 1/2", "-1.5"]),
    ],
    "identities and chains of equations": [
        ("2+3=5", ["5", "3+2=5"], ["1=1", "1+4=5", "2"]),
        ("x^2-1=(x-1)(x+1)", ["x^2-1=(x+1)(x-1)"], ["0=0", "1=1", "x=x"]),
        ("$2^{5}=32$", ["32"], ["2", "64", "25=32"]),
        ("$i^{22}=-1$", ["-1"], ["1", "i"]),
        (r"$i^{26}=\left(i^{4}\right)^{6} \cdot i^{2}=1 \cdot(-1)=-1$", ["-1"], ["1", "1=1"]),
        (r"$t=\frac{\ln (2)}{0.1}=10 \ln (2)$", [r"10\ln 2"], [r"\ln 2", r"10\ln 3"]),
        ("V=abc=20", ["20", "V=20"], ["V=ab=20", "abc"]),
    ],
    "points, sets, intervals and lists": [
        ("(3,4)", [r"\left(3,4\right)", "3<x<4"], [r"\{3,4\}", "[3,4]", "3,4", "(4,3)"]),
        (r"\{3,4\}", ["4,3", r"\{4,3\}"], ["(4,3)", "(3,4)", "[3,4]"]),
        ("(1,2,3)", ["(1, 2, 3)"], ["1,2,3", r"\{1,2,3\}", "(1,3,2)"]),
        ("(2,5]", ["]2,5]", r"\{x \mid 2 < x \le 5\}", r"2<x\le5"], ["]2,5[", "[2,5]", "(2,5)"]),
        (
            r"(-\infty,2)\cup(4,\infty)",
            [r"x<2 \text{ or } x>4", r"\mathbb{R} \setminus [2,4]"],
            ["x<2", r"x \le 2 \text{ or } x>4", r"(-\infty,2)"],
        ),
        (r"\mathbb{R}", [r"(-\infty,\infty)", r"\text{all real numbers}"], [r"(0,\infty)", r"\mathbb{Z}"]),
        (r"(-\infty, 3]", [r"x \le 3"], [r"[-\infty, 3]", r"(-\infty, 3)"]),
    ],
    "chains of inequalities": [
        ("b > a > c", ["b>a>c", "c < a < b"], ["b>c>a", "b > a", "a > b > c"]),
        ("a<b<c", ["a < b < c"], ["a < d", "a < b", r"a \le b < c"]),
        ("0 < x < 1", ["1 > x > 0", "(0,1)"], [r"0 \le x < 1", "0 < y < 1"]),
    ],
    "labels": [
        ("73", [r"\textbf{(D)}\ 73", r"\text{(D) } 73", r"\mathbf{(D)}\ 73"], [r"\textbf{(D)}\ 74"]),
        ("073", [r"\textbf{(073)}", "73"], [r"\textbf{(37)}"]),
        ("B", ["B. 14", r"\textbf{(B)}", "(B) 14"], ["C. 14", "14"]),
        ("(D) 73", ["D", "73", "D. 73"], ["(C) 73", "(D) 74", "C"]),
    ],
    "an answer that gives two is none": [
        ("A", [r"\text{(A) }14"], [r"\text{(A) or (B)}", r"\text{(A) (B)}", "A. B", "A, B"]),
        ("5", ["2+3=5"], ["5 = 3", r"5 \approx 3", r"5 \text{ (or 3)}", r"5 \text{ or } 3", "5; 3", "5 3"]),
        ("103", [r"103 \approx 103.0"], [r"100 \approx 103", r"103 \approx 100"]),
        (
            r"\frac{2}{3}",
            [r"\frac{2}{3} \approx 0.67", r"\frac23 \approx 0.66"],
            [r"\frac{2}{3} \approx 0.76"],
        ),
        (r"\pi", [r"\pi \approx 3.14"], [r"\pi \approx 3.41", "3.14"]),
    ],
    "upright e and i": [
        (r"\mathrm{e}^{2}", ["e^2"], ["e", "2"]),
        (r"3+4\mathrm{i}", ["3+4i"], ["3-4i", "3", "7"]),
        (r"2-\frac1{\mathrm e}", [r"2-\frac1e"], [r"2+\frac1{\mathrm e}", "2"]),
    ],
    "equal values": [
        (r"\tan 60^\circ", [r"\sqrt3"], [r"\tan 60", r"\sqrt2"]),
        (r"\sqrt[3]{-8}", ["-2"], ["2"]),
        (r"\cos\frac{2\pi}{7}+\cos\frac{4\pi}{7}+\cos\frac{6\pi}{7}", [r"-\frac12", "-0.5"], [r"\frac12"]),
        (r"\sqrt{1/m}", [r"\frac{1}{\sqrt m}"], [r"\sqrt m"]),
        (r"r=1+\sqrt{q/s}", [r"1+\sqrt q/\sqrt s"], [r"1-\sqrt q/\sqrt s"]),
        (r"6\sqrt{3}", [r"6\sqrt(3)", "6*sqrt(3)", "6√3"], ["6", r"\sqrt3"]),
        (
            r"\sum_{n=0}^{\infty}(n+1)(n+2) x^{n}",
            [
                r"\sum_{k=0}^{\infty}(k+1)(k+2) x^{k}",
                r"\sum_{k=2}^{\infty}k(k-1) x^{k-2}",
                r"\frac{2}{(1-x)^3}",
            ],
            ["3x^2", r"\sum_{n=1}^{\infty}(n+1)(n+2) x^{n}"],
        ),
        (r"\ln|x|+C", [r"C+\ln|x|"], [r"\ln x+C", r"\ln|x|"]),
    ],
    "notation": [
        ("10", ["C_{5}^{2}", "{}^5C_2", r"\binom{5}{2}", r"{5 \choose 2}"], ["C_6^2", "C_5^1"]),
        (r"C_{400}^{40}", [r"\binom{400}{40}", r"\binom{400}{360}"], [r"\binom{400}{41}"]),
        (r"\frac{3}{11}", [r"0.\dot{2}\dot{7}", r"0.\overline{27}"], [r"0.2\dot{7}", "0.27"]),
        (r"312_{\text{five}}", ["312_5", "312_{5}", "312"], [r"312_{\text{six}}", "313_5", "82"]),
    ],
    "markup": [
        (
            "13",
            [
                r"\underline{13}",
                r"\textcolor{red}{13}",
                r"\bf{13}",
                r"\begin{aligned} x &= 13 \end{aligned}",
                r"13^{\text{th}}",
                r"\text{13 units}",
                r"\text{The answer is } 13",
                r"\approx 13",
            ],
            [r"\underline{31}", r"\textcolor{13}{31}", r"\begin{aligned} x &= 13 \\ &= 14 \end{aligned}"],
        ),
        (r"\text{Quadrant I}", ["Quadrant I", r"\text{quadrant I}"], [r"\text{Quadrant II}", "I"]),
    ],
    "signs of Unicode and calculators": [
        (r"\frac12", ["½"], ["¼"]),
        ("x^2", ["x²", "x**2"], ["x³", "2x"]),
        ("75", ["75¢"], ["57¢"]),
        ("1250", ["€1,250"], ["€1,350"]),
        ("-5", ["—5", "－5", "−5"], ["5"]),
        (r"\frac{\pi}{2}", ["pi/2", "π/2"], ["pi", "2/pi"]),
        ("e^3-1", ["-1 + exp(3)"], ["1 + exp(3)", "exp(3)"]),
        ("1024", ["2**10"], ["2*10"]),
        ("3500000", [r"3.5 \text{ million}"], ["3.5", r"3.5 \text{ billion}"]),
    ],
}

COMPLETIONS: list[tuple[str, list[str], list[str]]] = [
    (
        "13",
        [
            "<think>5+8</think><answer>13</answer>",
            "<answer>13 apples</answer>",
            r"<answer> \boxed{13} </answer>",
            "<answer>The answer is $13$.</answer>",
            "The answer is `13`.",
            "Answer: `$13$`",
            "✅ Final Answer: **13**",
        ],
        [
            "<think>13</think><answer>14</answer>",
            r"<think>\boxed{13}</think><answer>14</answer>",
            r"<answer>13</answer> No, \boxed{14}",
            "<answer></answer>",
            "The answer is minus 13.",
            "The answer is at least 13.",
            "The answer is between 13 and 15.",
        ],
    ),
    ("-5", ["#### −5", "The answer is −5 degrees.", "The answer is minus 5.", "#### -5"], ["#### 5"]),
    ("9 (apples)", ["The answer is 9 apples.", "#### 9"], ["The answer is 8 apples."]),
    ("B", ["The answer is (B) 14."], ["The answer is (C) 14."]),
    ("14", ["The answer is (B) 14."], ["The answer is (B) 15."]),
    (r"\text{4:30 p.m.}", ["The answer is 4:30 p.m.", "The answer is 4:30 PM."], ["The answer is 4:30 a.m."]),
]


@pytest.fixture(scope="module")
def verifier() -> MathVerifier:
    return MathVerifier(MathConfig(), timeout_s=2.0)


@pytest.mark.parametrize("kind", BOXED)
def test_every_spelling_is_right_and_what_lost_or_changed_a_part_is_wrong(verifier: MathVerifier, kind: str):
    check_boxed(verifier, BOXED[kind])


@pytest.mark.parametrize(("truth", "right", "wrong"), COMPLETIONS)
def test_the_answer_is_found_outside_of_a_box(
    verifier: MathVerifier, truth: str, right: list[str], wrong: list[str]
):
    assert rewards(verifier, truth, right) == dict.fromkeys(right, 1.0)
    assert rewards(verifier, truth, wrong) == dict.fromkeys(wrong, 0.0)
