"""llama.cpp's routes `/props` and `/slots`, which describe the server and its models, and load none.

They contain no client's text, and of a path only the name of the file. Who reads what:

- llama.vscode (src/language-model-token-limits.ts): `n_ctx` of `/props?model=NAME&autoload=false`.
- pi's llama.cpp provider (github.com/huggingface/pi-llama): `n_ctx`, `chat_template` and `build_info` of `/props`, and
  `meta` of `/v1/models`, as VS Code's Copilot LLM Gateway does.
- llama.cpp's web page (tools/ui): `n_ctx`, `modalities` and `chat_template` of `/props?autoload=false`; llama-swap
  forwards `/props?model=NAME`.
- Dashboards and load balancers: `is_processing` and `n_decoded` of `/slots` (llm-dock derives the speed from two
  readings with the same `id_task`), and `/slots?fail_on_no_slot=1`. llama.cpp discussion 11040 is why there is no text.

Source: `get_res_props`, `server_slot::to_json` and the routes in llama.cpp's tools/server/server-context.cpp.
"""

from __future__ import annotations

from pydantic import RootModel
from typing_extensions import NotRequired, TypedDict

from serve.api.body import Count
from serve.api.health import UpstreamHealth, upstream_health
from serve.api.llama_cpp import LlamaCompletionRequest
from serve.metrics import SlotState
from serve.models.service import CompletionService
from serve.models.status import ModelInfo
from serve.settings import Defaults
from turbopilot.base.version import __version__


class DefaultParams(TypedDict):
    """Values of the fields of `/completion` that a request omits."""

    temperature: float
    top_k: Count
    top_p: float
    min_p: float
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    max_tokens: Count
    n_predict: Count
    n_probs: Count
    stream: bool
    timings_per_token: bool


class DefaultSettings(TypedDict):
    """Settings of a completion. `n_ctx` is the context of one request in tokens."""

    n_ctx: Count
    params: DefaultParams


class Modalities(TypedDict):
    """Inputs other than text; none is supported."""

    vision: bool
    audio: bool
    video: bool


class PropsAnswer(TypedDict):
    """Properties of the server and of a model.

    `total_slots` is the number of requests that are computed at once. `model_path` is the name of the file, without its
    folder. `bos_token` and `eos_token` are "" if the file does not name them. `is_sleeping`: the model is not loaded,
    and the next completion loads it. `fim_layout` is the layout of its fill-in-the-middle prompts, once it is loaded;
    `upstreams` are the engines that compute it elsewhere.
    """

    default_generation_settings: DefaultSettings
    total_slots: Count
    model_alias: str
    model_path: str
    model_ftype: str
    modalities: Modalities
    endpoint_slots: bool
    endpoint_props: bool
    endpoint_metrics: bool
    chat_template: str
    bos_token: str
    eos_token: str
    build_info: str
    is_sleeping: bool
    fim_layout: NotRequired[str]
    upstreams: NotRequired[list[UpstreamHealth]]


def props(model: ModelInfo, defaults: Defaults, service: CompletionService | None) -> PropsAnswer:
    """Return the properties of a model.

    Args:
        model: facts from its file.
        defaults: the server's defaults for fields that a request omits.
        service: the model if it is loaded.
    """
    asked = LlamaCompletionRequest(prompt="")
    sampling = asked.completion(defaults).sampling
    params: DefaultParams = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_last_n": sampling.repeat_last_n,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "max_tokens": defaults.max_tokens,
        "n_predict": defaults.max_tokens,
        "n_probs": asked.n_probs,
        "stream": asked.stream,
        "timings_per_token": asked.timings_per_token,
    }
    answer: PropsAnswer = {
        "default_generation_settings": {"n_ctx": model.n_ctx, "params": params},
        "total_slots": model.n_slots,
        "model_alias": model.name,
        "model_path": model.file_name,
        "model_ftype": model.main_type,
        "modalities": {"vision": False, "audio": False, "video": False},
        "endpoint_slots": True,
        "endpoint_props": False,
        "endpoint_metrics": True,
        "chat_template": model.chat_template,
        "bos_token": model.bos,
        "eos_token": model.eos,
        "build_info": f"turbopilot {__version__}",
        "is_sleeping": service is None,
    }
    if service and service.fim_layout:
        answer["fim_layout"] = service.fim_layout
    if service and service.upstreams:
        answer["upstreams"] = [upstream_health(u) for u in service.upstreams.statuses]
    return answer


class NextToken(TypedDict):
    """Progress of a completion: numbers of generated tokens, and of those that it may still have."""

    has_next_token: bool
    has_new_line: bool
    n_remain: Count
    n_decoded: Count


class SlotAnswer(TypedDict):
    """A slot, in which one request is computed. The fields after `n_prompt_tokens` are set only while it is.

    `n_prompt_tokens` is the number of tokens in the slot's KV cache, with the generated ones. `id_task` is unique to a
    request.
    """

    id: Count
    n_ctx: Count
    is_processing: bool
    n_prompt_tokens: Count
    id_task: NotRequired[Count]
    n_prompt_tokens_processed: NotRequired[Count]
    n_prompt_tokens_cache: NotRequired[Count]
    next_token: NotRequired[list[NextToken]]


class SlotsAnswer(RootModel[list[SlotAnswer]]):
    """All slots of a model; none if it is not loaded."""


def slot(state: SlotState, n_ctx: int) -> SlotAnswer:
    """Return one slot; `n_ctx` is its context in tokens."""
    found: SlotAnswer = {
        "id": state.index,
        "n_ctx": n_ctx,
        "is_processing": state.request_id is not None,
        "n_prompt_tokens": state.n_held,
    }
    if state.request_id is not None:
        found |= {
            "id_task": state.request_id,
            "n_prompt_tokens_processed": state.n_prefilled,
            "n_prompt_tokens_cache": state.n_cached,
            "next_token": [
                {
                    "has_next_token": True,
                    "has_new_line": state.has_line,
                    "n_remain": state.n_left,
                    "n_decoded": state.n_decoded,
                }
            ],
        }
    return found
