"""Three or so made-up rows for each of s1's sixteen sources, in the columns of the real data sets."""

from curate.sources import language, mathematics, original, programming, science

ROWS = {
    mathematics.NuminaMath: [
        {"source": "aops_forum", "problem": "Find all integers $n$ with $n^2=9$.", "messages": [],
         "solution": "Roots are $\\pm 3$, so \\boxed{-3, 3}."},
        {"source": "cn_k12", "problem": "What is 2+2?", "solution": "It is $\\boxed{4}$.", "messages": []},
        {"source": "aops_forum", "problem": "Prove that primes never end.", "solution": "Euclid.", "messages": []},
    ],
    mathematics.Math: [
        {"problem": "What is $1+1$?", "solution": "$1+1=\\boxed{2}$", "answer": "2", "subject": "Algebra", "level": 1,
         "unique_id": "train/algebra/1.json"},
        {"problem": "Simplify $\\sqrt{8}$.", "solution": "It is $\\boxed{2\\sqrt{2}}$.", "answer": "2\\sqrt{2}",
         "subject": "Algebra", "level": 2, "unique_id": "train/algebra/2.json"},
    ],
    science.OlympicArena: [
        {"id": "Physics_1", "problem": "A body falls 5 m. How long?", "prompt": "", "figure_exists": False,
         "answer_type": "NV", "unit": "s", "solution": "t = 1", "answer": ["1"], "subject": "Physics",
         "language": "EN", "modality": "text-only"},
        {"id": "CS_2", "problem": "Print n.", "prompt": "", "figure_exists": False, "answer_type": "CODE", "unit": None,
         "solution": None, "answer": None, "subject": "CS", "language": "EN", "modality": "text-only"},
        {"id": "Math_3", "problem": "ZH", "figure_exists": False, "answer_type": "NV", "subject": "Math",
         "language": "ZH", "modality": "text-only", "solution": None, "answer": None},
        {"id": "Biology_4", "problem": "See the picture.", "figure_exists": True, "answer_type": "SC",
         "subject": "Biology", "language": "EN", "modality": "multi-modal", "solution": None, "answer": ["A"]},
    ],
    mathematics.OmniMath: [
        {"domain": ["Mathematics -> Algebra"], "difficulty": 7.0, "problem": "Find $x$ with $2x=6$.",
         "solution": "Halve.", "answer": "3", "source": "HMMT_2"},
    ],
    language.AGIEval: [
        {"passage": "Ann is taller than Bob.", "question": "Who is shorter?", "options": ["(A)Ann", "(B)Bob"],
         "label": "B", "answer": None, "other": None},
        {"passage": None, "question": "What is $3!$?", "options": None, "label": None, "answer": "6",
         "other": {"level": 5, "solution": "3*2*1"}},
        {"passage": None, "question": "What is $1+1$?", "options": None, "label": None, "answer": "2",
         "other": {"level": 1, "solution": "2"}},
    ],
    language.Crossword: [
        {"instruction": "Solve the clue.", "input": "Capital of Italy (4)", "output": "ROME"},
        {"instruction": "Solve the clue.", "input": "Opposite of night (3)", "output": "DAY"},
    ],
    mathematics.OlympiadBench: [
        {"id": 1, "question": "Find its speed.", "solution": ["v = 2", "another"], "final_answer": ["$2$"],
         "context": "A train runs 4 m in 2 s.", "modality": "Text-only", "subject": "Physics", "language": "English",
         "subfield": "Mechanics", "question_type": "Open-ended", "answer_type": "Numerical", "unit": "m/s"},
        {"id": 2, "question": "Prove it.", "solution": ["By induction."], "final_answer": None, "context": None,
         "modality": "Text-only", "subject": "Math", "language": "English", "question_type": "Theorem proof"},
        {"id": 3, "question": "Was ist das?", "solution": ["x"], "final_answer": None, "context": None,
         "modality": "Multimodal", "subject": "Math", "language": "English", "question_type": "Open-ended"},
    ],
    mathematics.AIME: [
        {"ID": "1984-3", "Year": 1984, "Problem Number": 3, "Question": "Find the area.", "Answer": 144, "Part": None},
        {"ID": "2022-I-1", "Year": 2022, "Problem Number": 1, "Question": "Find it.", "Answer": "116", "Part": "I"},
    ],
    mathematics.TheoremQA: [
        {"Question": "What is the rank of the identity of size 3?", "Answer": "3", "Answer_type": "integer",
         "Picture": None},
        {"Question": "Is it convex?", "Answer": "True", "Answer_type": "bool", "Picture": None},
        {"Question": "See the graph.", "Answer": "2", "Answer_type": "integer", "Picture": "graph.png"},
    ],
    programming.USACO: [{"question": "Farmer John has n cows. Print n.", "problem_id": "1_bronze_cows"}],
    science.JEEBench: [
        {"subject": "phy", "description": "JEE Adv 2016", "gold": "B", "index": 1, "type": "MCQ",
         "question": "Which? (A) 1 (B) 2"},
        {"subject": "math", "description": "JEE Adv 2016", "gold": "6", "index": 2, "type": "Integer",
         "question": "How many?"},
    ],
    science.GPQA: [
        {"Question": "Which gas?", "Correct Answer": "Helium", "Incorrect Answer 1": "Neon",
         "Incorrect Answer 2": "Argon", "Incorrect Answer 3": "Xenon", "Explanation": "It is light.",
         "Record ID": "rec1", "Subdomain": "Chemistry (general)"},
    ],
    science.SciEval: [
        {"id": "a", "question": "2 mol of gas? A. 1 B. 2", "answer": ["B"], "type": "multiple-choice",
         "category": "chemistry", "topic": "physical", "task_name": "SocraticQA", "ability": "Base Knowledge"},
        {"id": "b", "question": "How much?", "answer": ["4.5"], "type": "filling", "category": "physics",
         "topic": "optics", "task_name": "dynamic", "ability": "Scientific Calculation"},
        {"id": "c", "question": "Hidden?", "answer": None, "type": "multiple-choice", "category": "physics",
         "topic": "optics", "task_name": "SocraticQA", "ability": "Base Knowledge"},
    ],
    original.S1Prob: [
        {"question": "Compute $P(X=1)$ for a fair coin.", "solution": "It is $\\boxed{\\frac12}$."},
        {"question": "Prove the strong law.", "solution": "Etemadi."},
    ],
    programming.LiveCodeBench: [
        {"question_title": "Sum", "question_content": "Print the sum.", "platform": "leetcode", "question_id": "1",
         "starter_code": "class Solution:", "difficulty": "hard", "contest_date": "2023-05-01"},
        {"question_title": "Echo", "question_content": "Print it.", "platform": "atcoder", "question_id": "2",
         "starter_code": "", "difficulty": "easy", "contest_date": "2023-05-01"},
    ],
    original.S1Teasers: [
        {"question": "How many balls?", "solution": "Three are enough.", "answer": "3", "difficulty": "Hard"},
        {"question": "How many hats?", "solution": "1", "difficulty": "Easy"},
    ],
}  # fmt: skip
