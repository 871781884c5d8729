// The sections of the page, in any order: each is shown if the report has something for it.
summarise();
gate();
measures();
forgotten();
judge();
details();
trained();
samples();
if (data.histograms.length) reveal("lengths", element("div", { class: "charts" }, data.histograms.map(histogram)));
rows();
