"""/v1/responses with OpenAI's client."""

import openai
import pytest

from engine import SamplingParams

QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?"
THINKING = {"thinking_token_budget": 48, "thinking_extensions": 1}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def alone(engine):
    params = SamplingParams(max_tokens=200, **THINKING)
    return engine.generate([QUESTION], params)[0].outputs[0]


@pytest.mark.parametrize(
    "given",
    [
        QUESTION,
        [{"role": "user", "content": QUESTION}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
        [{"type": "reasoning", "id": "rs_1", "summary": []}, {"role": "user", "content": QUESTION}],
    ],
)
def test_a_response_is_the_engine_s_answer(client, alone, given):
    reply = client.responses.create(model="s1-nano", input=given, max_output_tokens=200, extra_body=THINKING)
    assert reply.output_text == alone.answer and reply.status == "completed" and reply.object == "response"
    thought, said = reply.output
    assert thought.type == "reasoning" and thought.content[0].text == alone.reasoning
    assert said.type == "message" and said.role == "assistant" and said.content[0].text == alone.answer
    assert reply.usage.output_tokens == len(alone.token_ids) and reply.usage.total_tokens > reply.usage.output_tokens
    assert reply.usage.output_tokens_details.reasoning_tokens == alone.thinking.tokens
    assert reply.thinking["stop_reason"] == alone.thinking.stop_reason and reply.forced == alone.forced


def test_a_stream_has_the_same_in_the_order_of_its_events(client, alone):
    with client.responses.stream(model="s1-nano", input=QUESTION, max_output_tokens=200, extra_body=THINKING) as stream:
        events = list(stream)
        final = stream.get_final_response()
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.in_progress", "response.output_item.added"]
    assert kinds[-1] == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    thought = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert (thought, said) == (alone.reasoning, alone.answer)
    assert final.output_text == alone.answer and final.output[0].content[0].text == alone.reasoning
    assert [e.output_index for e in events if e.type == "response.output_item.done"] == [0, 1]
    assert {e.content_index for e in events if e.type.endswith(".delta")} == {0}


def test_thinking_may_be_left_out_or_cut(client, engine):
    hidden = client.responses.create(model="s1-nano", input=QUESTION, extra_body={"include_reasoning": False})
    assert [item.type for item in hidden.output] == ["message"]
    none = client.responses.create(model="s1-nano", input=QUESTION, reasoning={"effort": "none"}, max_output_tokens=60)
    assert none.usage.output_tokens_details.reasoning_tokens == 0 and none.output[0].type == "message"
    cut = client.responses.create(
        model="s1-nano", input=QUESTION, max_output_tokens=20, extra_body={"thinking_budget_action": "truncate"}
    )
    assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"


def test_instructions_are_the_system_s(client, engine):
    reply = client.responses.create(model="s1-nano", input="How many r in raspberry?", instructions="Be brief.")
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many r in raspberry?"}]
    assert reply.output_text == engine.generate([{"messages": messages}])[0].outputs[0].answer


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"text": {"format": {"type": "json_object"}}}, "text"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": "2"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]},
            "messages[0].content[0]",
        ),
        ({"input": []}, "messages"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(client, more, field):
    with pytest.raises(openai.BadRequestError) as raised:
        client.responses.create(**{"model": "s1-nano", "input": QUESTION, **more})
    assert field in raised.value.message
