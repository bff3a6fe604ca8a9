/** Answers of the routes under /status, as serve/api/status.py declares them; tests compare the two. */

export interface StatusSample {
  time: number;
  running: number;
  waiting: number;
  prefill_speed: number;
  decode_speed: number;
  first_token_ms?: number;
  cached_share?: number;
  accepted_share?: number;
  cpu?: number;
  gpu?: number;
}

export interface CachedPrefix {
  tokens: number;
  bytes: number;
  age: number;
  idle: number;
  hits: number;
}

export interface SlotStatus {
  index: number;
  held: number;
  request?: number;
  cached: number;
  prefilled: number;
  decoded: number;
  left: number;
}

export interface DeviceHealth {
  device: string;
  description: string;
  layers: number;
  has_output: boolean;
  weights: number;
  kv: number;
  compute: number;
  free_before: number;
  free_after: number;
}

export interface UpstreamHealth {
  name: string;
  engine: string;
  status: "healthy" | "ejected" | "probing" | "draining" | "down";
  slots: number;
  in_flight: number;
  outcomes: Record<string, number>;
  reason?: string;
}

export interface ServedModelStatus {
  name: string;
  status: "unloaded" | "loading" | "ok" | "stalled" | "draining" | "failed";
  reason?: string;
  file: string;
  type: string;
  size: number;
  context: number;
  fim_layout?: string;
  next_edit?: string;
  certificate?: string;
  running: number;
  waiting: number;
  memory?: number;
  devices?: DeviceHealth[];
  upstreams?: UpstreamHealth[];
  slots?: SlotStatus[];
  prefix_cache?: CachedPrefix[];
  prefix_cache_bytes?: number;
  prefix_cache_limit?: number;
}

export interface GpuStatus {
  name: string;
  load?: number;
  memory_total: number;
  memory_free: number;
}

export interface MachineStatus {
  cores: number;
  memory_total: number;
  memory_free: number;
  process_memory?: number;
  model_memory_limit?: number;
  gpus: GpuStatus[];
}

export interface RequestTimes {
  id: string;
  time: number;
  route: string;
  client: string;
  model: string;
  status: number;
  reason: "stop" | "length" | "cancelled" | "superseded" | "deadline" | "error" | "refused";
  is_low: boolean;
  total: number;
  load: number;
  queue: number;
  prefill: number;
  decode: number;
  other: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  drafted_tokens: number;
  accepted_tokens: number;
  why: string;
}

export interface ServerEvent {
  id: number;
  time: number;
  level: "info" | "warning" | "error";
  model: string;
  text: string;
}

export interface AcceptedShare {
  client: string;
  shown: number;
  accepted: number;
  dismissed: number;
}

export interface StatusAnswer {
  version: string;
  started: number;
  time: number;
  needs_key: boolean;
  default_model: string;
  models: ServedModelStatus[];
  machine: MachineStatus;
  samples: StatusSample[];
  requests: RequestTimes[];
  events: ServerEvent[];
  accepted: AcceptedShare[];
}

export interface SettingStatus {
  flag: string;
  value: string;
  is_default: boolean;
  help: string;
}

export interface SettingsAnswer {
  settings: SettingStatus[];
}
