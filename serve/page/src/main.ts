/** The page of the server: a playground, its status, and the set-up of editors. */

import { byId } from "./element";
import { askForKey } from "./key";
import { playground } from "./playground/view";
import { onKeyNeeded } from "./server";
import { setup } from "./setup/view";
import { status } from "./status/view";
import { showTabs } from "./tabs";

onKeyNeeded(askForKey);
showTabs({
  playground: playground(byId("playground")),
  status: status(byId("status")),
  setup: setup(byId("setup")),
});
