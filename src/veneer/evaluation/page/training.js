// The run that made the adapter: its facts, its losses, and samples from during the run.
function trained() {
  if (!report.trained) return;
  reveal(
    "trained",
    table(
      ["", ""],
      Object.entries(report.trained.facts).map(([name, value]) => [name, element("span", {}, [String(value)])]),
      "plain facts",
    ),
  );
  const plan = report.trained.plan || [];
  const rounded = (value) => (value >= 100 ? number(Math.round(value)) : value.toPrecision(3));
  if (plan.length) {
    at("trained").append(
      element("h3", {}, ["Plan and measurement"]),
      table(
        ["", "planned", "measured", "measured / planned"],
        plan.map((one) => [
          one.name,
          rounded(one.planned),
          rounded(one.measured),
          (one.measured / one.planned).toFixed(2),
        ]),
      ),
    );
  }
  const drawn = curve(report.trained.losses, report.trained.loss_unit);
  if (drawn) at("trained").append(drawn);
}

function samples() {
  const found = (report.trained && report.trained.samples) || [];
  if (!found.length) return;
  const prompts = [...new Set(found.flatMap((one) => one.prompts))];
  at("which-sample").append(
    ...prompts.map((text, place) =>
      element("option", { value: place }, [text.length > 80 ? `${text.slice(0, 79)}…` : text]),
    ),
  );
  const show = () => {
    const prompt = prompts[at("which-sample").value];
    const lines = found
      .filter((one) => one.prompts.includes(prompt))
      .map((one) => {
        const answer = one.answers[one.prompts.indexOf(prompt)] + (one.cut_short ? " …" : "");
        return element("tr", {}, [
          element("td", { class: "number" }, [number(one.step)]),
          element("td", {}, [element("div", { class: "answer" }, [answer || "(nothing)"])]),
        ]);
      });
    const head = element("tr", {}, [element("th", { class: "number" }, ["step"]), element("th", {}, ["answer"])]);
    at("sampled").replaceChildren(
      element("div", { class: "question" }, [prompt]),
      element("table", {}, [element("thead", {}, [head]), element("tbody", {}, lines)]),
    );
  };
  at("which-sample").addEventListener("change", show);
  const share = (100 * found[found.length - 1].share).toFixed(1);
  const cut = found.some((one) => one.cut_short) ? " Answers that end with … were cut short for that." : "";
  at("sample-note").textContent = `Samples took ${share} % of the run's time, and may take 3 %.${cut}`;
  reveal("samples");
  show();
}
