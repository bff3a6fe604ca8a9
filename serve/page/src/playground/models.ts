/** The models of the server, as the playground offers them. */

import { json } from "../server";
import type { ServerDefaults } from "./controls";

export interface ModelChoice {
  name: string;
  label: string;
  /** Whether the model sees the text after the cursor. */
  fills: boolean;
  predictsEdits: boolean;
}

interface ModelsAnswer {
  data: { id: string; capabilities?: { completion_fim?: boolean }; meta?: { ftype?: string } }[];
}

interface StatusAnswer {
  models: { name: string; next_edit?: string }[];
}

/** Return all models that the server can load; the default one is the first. */
export async function modelChoices(): Promise<ModelChoice[]> {
  const { data } = await json<ModelsAnswer>("/v1/models");
  const { models } = await json<StatusAnswer>("/status").catch((): StatusAnswer => ({ models: [] }));
  return data.map(({ id, capabilities, meta }) => ({
    name: id,
    label: meta?.ftype ? `${id} (${meta.ftype})` : id,
    fills: capabilities?.completion_fim ?? true,
    predictsEdits: Boolean(models.find((m) => m.name === id)?.next_edit),
  }));
}

/** Return the server's defaults for fields that a request omits. */
export async function serverDefaults(model: string): Promise<ServerDefaults> {
  const path = `/props?model=${encodeURIComponent(model)}`;
  return (await json<{ default_generation_settings: { params: ServerDefaults } }>(path)).default_generation_settings.params;
}
